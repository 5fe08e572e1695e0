"""Text of other people, made harmless for terminals, logs and files."""

from __future__ import annotations

import unicodedata

#: Marks that turn the direction of what follows: a line shows something else than it holds.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escaped(text: str) -> str:
    """One line: whatever is no visible character or a space becomes its escape.

    For what a worker says to people (why a task failed, which device it has). Nothing is lost by it.

    Example:
      >>> print(escaped("no\\n\\x1b[31mroom"))
      no\\n\\x1b[31mroom
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def readable(text: str) -> str:
    """Text of a model: line breaks, tabs and joined emoji stay; controls and marks of direction are replaced.

    Example:
      >>> readable("two\\nlines\\x1b[2J")
      'two\\nlines�[2J'
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _harmful(c) else c for c in text)


def _harmful(c: str) -> bool:
    return (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in _TURNING
