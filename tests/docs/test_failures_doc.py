"""docs/failures.md: all 22 faults that were asked for, each with tests; `test_docs` looks whether these are there."""

from __future__ import annotations

from doc_tables import REPO, quoted, section, tables, text_of


def test_all_are_there_with_their_tests() -> None:
    (rows,) = tables(section(text_of("failures.md"), "The 22 faults that were asked for"))
    assert [row[0] for row in rows[1:]] == [f"F{number}" for number in range(1, 23)]
    for number, fault, where in rows[1:]:
        tests = quoted(where)
        assert fault and tests and where == ", ".join(f"`{test}`" for test in tests), number
        assert all("::" in test for test in tests), number


def test_what_is_promised_is_shown_by_tests_here_and_in_readme() -> None:
    (rows,) = tables(section(text_of("failures.md"), "What is promised"))
    assert len([row for row in rows[1:] if row[0]]) == 7
    assert all(what and "::" in where for _, what, where in rows[1:])
    promised = section((REPO / "README.md").read_text(encoding="utf-8"), "What it promises, and what not")
    bullets = promised.partition("\n- ")[2].split("\n- ")
    assert len(bullets) > 7 and bullets[-1].startswith("Not yet")
    assert [bullet for bullet in bullets[:-1] if not any("::" in name for name in quoted(bullet))] == []
