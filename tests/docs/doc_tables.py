"""The Markdown of docs/, read for comparison with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCS = sorted((REPO / "docs").rglob("*.md"))

Rows = list[list[str]]


def text_of(name: str) -> str:
    """A file of docs/."""
    return (REPO / "docs" / name).read_text(encoding="utf-8")


def tables(text: str) -> Iterator[Rows]:
    """Every table, in order: its rows of stripped cells, the head first, without the line of dashes."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        assert all(len(row) == len(rows[0]) for row in rows), f"a row of another length in the table of {rows[0]}"
        yield [rows[0], *rows[2:]]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def quoted(cell: str) -> list[str]:
    """What stands between backticks, on one line: code fences are left out."""
    return re.findall(r"`([^`\n]+)`", cell)
