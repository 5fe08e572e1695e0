"""Who did what when: a run's rounds and tasks as spans of time, for charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedmq.storage.journal import Journal


def timeline(journal: Journal, first: int = 0, last: int | None = None) -> list[dict[str, Any]]:
    """What took how long in the rounds from `first` to `last` (None: the newest), by start; unknown times are left out.

    So is what would end before it starts: the wait for a training that began before its round, and whatever a clock
    that was set back makes of the rest.

    Returns:
      {kind, round, who, worker, start, end}: seconds since 1970, or of virtual time. The kinds, and who is who:

      - "wait": a client was selected, and no worker free for it; `worker` is "".
      - "train": a client was trained, with what had to be downloaded for it.
      - "transfer": its update was on the way, and checked.
      - "aggregate": the model was made; `who` and `worker` are "".
      - "evaluate": the version of the round was scored, on `who`: "test", or a client's held-out texts.
    """
    known = [span for span in _all(journal, first, last) if None not in (span["start"], span["end"])]
    spans = [span for span in known if span["start"] <= span["end"]]
    return sorted(spans, key=lambda span: (span["start"], span["end"], span["kind"], span["who"]))


def _all(journal: Journal, first: int, last: int | None) -> Iterator[dict[str, Any]]:
    opened = {}
    for row in journal.rounds(first):
        if last is None or row["round"] <= last:
            opened[row["round"]] = row["opened_at"]
            yield _span("aggregate", row["round"], "", "", row["frozen_at"], row["committed_at"])
    for row in (update for round in opened for update in journal.updates(round)):
        task = row["round"], row["client"], row["worker"]
        yield _span("wait", *task[:2], "", opened[row["round"]], row["assigned_at"])
        yield _span("train", *task, row["assigned_at"], row["offered_at"])
        yield _span("transfer", *task, row["offered_at"], row["received_at"])
    for row in journal.evaluations(first):
        if last is None or row["version"] <= last:
            yield _span("evaluate", row["version"], row["unit"], row["worker"], row["assigned_at"], row["received_at"])


def _span(kind: str, round: int, who: str, worker: str, start: float | None, end: float | None) -> dict[str, Any]:
    return {"kind": kind, "round": round, "who": who, "worker": worker, "start": start, "end": end}
