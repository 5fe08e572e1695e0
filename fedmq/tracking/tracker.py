"""What a tracker is: two functions. Each adapter makes them of one library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class About(NamedTuple):
    """The run that a tracker is told of.

    Attributes:
      run: its id: the same after a resume.
      name: of the experiment.
      config: by "section.key".
      folder: for what the tracker writes; it has this one to itself.
    """

    run: str
    name: str
    config: Mapping[str, Any]
    folder: Path


class Tracker(NamedTuple):
    """Told of a run from its first round on, also after a resume: what it has of the run already, it drops or skips.

    Attributes:
      log: a round, its time (seconds since 1970) and its scalars, in the order of the rounds.
      end: whether all rounds are committed, and SHA-256 of the last adapter; nothing follows.
    """

    log: Callable[[int, float, Mapping[str, float]], None]
    end: Callable[[bool, str], None]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level.

    Example:
      >>> flat({"seed": 1, "lora": {"r": 8}})
      {'seed': 1, 'lora.r': 8}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
