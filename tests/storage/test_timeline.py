"""A run's rounds and tasks as spans of time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_journal import EVALUATION, UPDATE

from fedmq.storage.journal import Journal
from fedmq.storage.timeline import timeline


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A clock that shows the next whole second whenever it is looked at."""
    journal = Journal.create(tmp_path / "run.db", {"run": "r"})
    seconds = itertools.count(1)
    journal.clock = lambda: float(next(seconds))
    yield journal
    journal.close()


def update(round: int, client: str, started: int, **times: float | None) -> dict[str, object]:
    return UPDATE | {"round": round, "client": client, "started": started} | times


def test_spans_of_a_round(journal: Journal) -> None:
    journal.open_round(1, [["a"], ["b"]])  # at 1
    journal.add_update(**update(1, "a", 1, assigned_at=1.25, offered_at=1.75))  # at 2
    journal.add_update(**update(1, "b", 1, assigned_at=None, offered_at=2.5))  # at 3
    journal.freeze_round(1, ["a", "b"])  # at 4
    journal.commit_round(1, "d1")  # at 5
    journal.add_evaluation(**EVALUATION | {"assigned_at": 5.5})  # at 6
    assert [tuple(span.values()) for span in timeline(journal)] == [
        ("wait", 1, "a", "", 1.0, 1.25),
        ("train", 1, "a", "w", 1.25, 1.75),
        ("transfer", 1, "a", "w", 1.75, 2.0),
        ("transfer", 1, "b", "w", 2.5, 3.0),
        ("aggregate", 1, "", "", 4.0, 5.0),
        ("evaluate", 1, "test", "w", 5.5, 6.0),
    ]
    assert timeline(journal, first=2) == []


def test_nobody_waits_in_a_round_for_what_began_before_it(journal: Journal) -> None:
    journal.open_round(1, [["a"]])
    journal.commit_round(1, "d1")
    journal.open_round(2, [["a"]])
    journal.add_update(**update(2, "a", 1, assigned_at=1.5, offered_at=2.5))
    assert [span["kind"] for span in timeline(journal)] == ["train", "transfer"]
    assert [span["round"] for span in timeline(journal, first=2)] == [2, 2]


def test_a_clock_that_was_set_back_leaves_no_span_that_ends_before_it_starts(journal: Journal) -> None:
    journal.open_round(1, [["a"]])  # at 1
    journal.add_update(**update(1, "a", 1, assigned_at=90.0, offered_at=95.0))  # at 2
    assert [span["kind"] for span in timeline(journal)] == ["wait", "train"]
