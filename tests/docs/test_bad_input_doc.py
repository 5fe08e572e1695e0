"""docs/bad-input.md: all 64 rows, each with a test of its number; strikes as the code has them."""

from __future__ import annotations

import re

import pytest
from doc_tables import REPO, quoted, section, tables, text_of

from fedmq.protocol import limits

TEXT = text_of("bad-input.md")
ROWS = {row[0]: row for table in tables(TEXT) for row in table if re.fullmatch(r"B\d+", row[0])}


def test_all_are_there() -> None:
    assert list(ROWS) == [f"B{number}" for number in range(1, 65)]


@pytest.mark.parametrize("number", ROWS)
def test_row(number: str) -> None:
    _, given, outcome, where = ROWS[number]
    assert given and outcome
    tests = quoted(where)
    assert tests
    for path, name in (test.split("::") for test in tests):
        source = (REPO / path).read_text(encoding="utf-8")
        # Over ZeroMQ and beside it: each named test has a row, or is the row, of this number.
        assert re.search(rf'"{number} ', source), f"{path} has no row {number}"
        assert f"def {name}(" in source


def test_strikes() -> None:
    (rows,) = list(tables(section(TEXT, "Strikes and quarantine")))
    codes = {row[0]: set(row[1].split(", ")) for row in rows[1:]}
    assert codes["lies"] == limits.LIES and codes["faults"] == limits.FAULTS
    assert not codes["no strike"] & (limits.LIES | limits.FAULTS)
