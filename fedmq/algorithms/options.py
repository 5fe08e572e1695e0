"""What the options of a method may be. A factory checks them; ValueError says which value is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_LIMITS: Mapping[str, Callable[[float], bool]] = {
    "> 0": lambda value: value > 0,
    ">= 0": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}


def require(limits: str, **options: Any) -> None:
    """Raise ValueError on an option that is not a finite number within the limits.

    Args:
      limits: "> 0", ">= 0", "in [0, 1)", "in [0, 1]" or "in (0, 1]".
      options: by name.

    Example:
      >>> require("> 0", lr=0.1)
      >>> require("in [0, 1)", momentum=1.0)
      Traceback (most recent call last):
      ValueError: need momentum in [0, 1), got 1.0
    """
    for name, value in options.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and _LIMITS[limits](value)):
            raise ValueError(f"need {name} {limits}, got {value!r}")


def whole(name: str, value: Any, least: int) -> int:
    """The value as an integer, as a config has only numbers; ValueError when it is none, or less than `least`.

    Example:
      >>> whole("d", 6.0, least=1)
      6
    """
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value == int(value) and value >= least):
        raise ValueError(f"need a whole {name} of at least {least}, got {value!r}")
    return int(value)


def one_of(known: Iterable[str], **options: Any) -> None:
    """Raise ValueError on an option that is none of the known names.

    Example:
      >>> one_of(["per_class", "per_client"], law="both")
      Traceback (most recent call last):
      ValueError: need law per_class or per_client, got 'both'
    """
    for name, value in options.items():
        if value not in (names := list(known)):
            raise ValueError(f"need {name} {' or '.join(names)}, got {value!r}")
