"""Config files and `--set` as plain objects: JSON, TOML, and errors that name the line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from fedmq.errors import ConfigError


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON or TOML file, by suffix.

    Raises:
      ConfigError: no such file, another suffix, not UTF-8, a syntax error (with line and column),
        a key given twice, or no object at the top.
    """
    if path.suffix not in (".json", ".toml"):
        raise ConfigError(f"{path}: a config file ends with .json or .toml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config file: {error.strerror}") from None
    value: Any
    try:
        if path.suffix == ".toml":
            value = tomllib.loads(text)
        else:
            value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a config file") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: should hold an object of sections, holds {type(value).__name__}")
    return value


def override(values: dict[str, Any], assignments: list[str]) -> None:
    """Set, in place, what assignments such as "federated.num_rounds=3" or "seed=1" say.

    Values are JSON, else strings; the last one of a key counts. Names are checked later, by the
    config that the object becomes.

    Raises:
      ConfigError: no "=", a section's name alone, or a path through something that is no section.

    Example:
      >>> values = {"seed": 42, "data": {"dataset_path": "a.csv"}}
      >>> override(values, ["seed=1", "data.dataset_path=b.csv"])
      >>> values
      {'seed': 1, 'data': {'dataset_path': 'b.csv'}}
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{assignment!r}: should be SECTION.KEY=VALUE or KEY=VALUE")
        *sections, name = key.split(".")
        target = values
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{key}: unknown key; {section} is no section")
            target = inner
        if not sections and isinstance(target.get(name), dict):
            raise ConfigError(
                f"{key}: is a section; set one of its keys, such as {key}.{next(iter(target[name]))}=VALUE"
            )
        try:
            target[name] = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            target[name] = text


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"{next(name for name in names if names.count(name) > 1)}: key given twice")
    return result


def _refuse_constant(text: str) -> float:
    raise ConfigError(f"{text} is not JSON; give a finite number")
