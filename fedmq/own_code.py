"""A user's own function, named in a config as `module:attribute`. Only the coordinator imports it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from fedmq.errors import ConfigError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
    """Whether a name is of the form `module:attribute`.

    Example:
      >>> is_reference("my_rules:newest"), is_reference("uniform"), is_reference("my rules:newest")
      (True, False, False)
    """
    return _REFERENCE.fullmatch(name) is not None


def load(reference: str) -> object:
    """Import `module` and return its `attribute`.

    The module is looked for where Python looks, then in the current folder. To import it is to run it: a config of
    a stranger that names one is a program of a stranger.

    Raises:
      ConfigError: there is no such module or attribute, or the module cannot be imported.

    Example:
      >>> load("math:sqrt")(9)
      3.0
      >>> load("math:squirt")
      Traceback (most recent call last):
      fedmq.errors.ConfigError: math:squirt: the module math (...) has no squirt
    """
    if not is_reference(reference):
        raise ConfigError(f"{reference}: expected module:attribute, such as my_rules:newest")
    name, _, attribute = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        # At the end, so that a file here takes the place of no module that is installed.
        sys.path.append(here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{reference}: there is no module {error.name}, neither installed nor in {here}"
            ) from error
        raise ConfigError(f"{reference}: {name} cannot be imported: {error}") from error
    except Exception as error:
        raise ConfigError(f"{reference}: {name} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{reference}: the module {name} ({getattr(module, '__file__', None)}) has no {attribute}")
    return getattr(module, attribute)
