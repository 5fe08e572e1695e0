"""docs/failures.md: all 22 faults that were asked for, each with tests; `test_docs` looks whether these are there."""

from __future__ import annotations

from doc_tables import quoted, section, tables, text_of


def test_all_are_there_with_their_tests() -> None:
    (rows,) = tables(section(text_of("failures.md"), "The 22 faults that were asked for"))
    assert [row[0] for row in rows[1:]] == [f"F{number}" for number in range(1, 23)]
    for number, fault, where in rows[1:]:
        tests = quoted(where)
        assert fault and tests and where == ", ".join(f"`{test}`" for test in tests), number
        assert all("::" in test for test in tests), number
