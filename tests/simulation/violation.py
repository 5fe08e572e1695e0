"""What is raised when something does not hold."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, name: str, text: str) -> None:
    """Raise unless it holds.

    Raises:
      Violation: with the invariant's name.
    """
    if not holds:
        raise Violation(f"{name}: {text}")
