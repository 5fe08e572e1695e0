"""A run as the parts that the page is made of: JSON, columns rather than rows, numbers rather than names.

That is a tenth of the bytes, for a page that has a second to draw 50,000 trainings. Text is made harmless here as it is
for a terminal; that it is no HTML, the page sees to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedmq.protocol.printable import escaped, readable
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import total_bytes
from fedmq.storage.provenance import provenance
from fedmq.storage.timeline import timeline

#: Warnings and notes beyond the newest ones are in the logs.
_MAX_NOTES = 200
Part = Any


class Names:
    """Clients or workers by the number that columns have for them. A number once given stays."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Of a name; a new one gets the next."""
        return self._numbers.setdefault(name, len(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def shown(self) -> list[str]:
        """All, in the order of their numbers."""
        return [escaped(name) for name in self._numbers]


def column(values: Sequence[Any]) -> Any:
    """A column; one value where all are the same.

    Example:
      >>> column([3, 3, 3]), column([1, 2]), column([])
      (3, [1, 2], [])
    """
    return values[0] if values and all(value == values[0] for value in values) else list(values)


def number(value: Any, digits: int = 5) -> float | int | None:
    """What JSON has as a number: a damaged run.db may hold anything.

    Example:
      >>> number(2.1234567), number(7), number(float("nan")), number("seven")
      (2.12346, 7, None, None)
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else round(value, digits)


def head_part(journal: Journal, config: Mapping[str, Any], status: str, damage: Sequence[str]) -> Part:
    """What the run is, and how it stands."""
    notes = journal.notes()
    return {
        "name": escaped(str(config["experiment_name"])),
        "status": status,
        "reason": escaped(journal.get("reason") or ""),
        "num_rounds": config["federated"]["num_rounds"],
        "committed": journal.last_committed(),
        "damage": [escaped(line) for line in damage],
        "notes": [
            [number(note["at"], 0), escaped(str(note["level"])), escaped(str(note["text"]))]
            for note in notes[-_MAX_NOTES:]
        ],
        "num_notes": len(notes),
    }


def live_part(journal: Journal, status: str) -> Part:
    """What its process says of this moment; None of a run that has none."""
    live = json.loads(journal.get("live") or "null")
    if not live or status != "running":
        return None
    return live | {
        "awaited": [escaped(line) for line in live["awaited"]],
        "workers": [
            worker | {"worker": escaped(worker["worker"]), "jobs": [escaped(job) for job in worker["jobs"]]}
            for worker in live["workers"]
        ],
    }


def settings_part(journal: Journal) -> Part:
    """The config, and what else it takes to make the run again."""
    known = provenance(journal)
    began = known["started_at"]
    facts = {"started_at": None if began is None else datetime.fromtimestamp(began, UTC).isoformat(" ", "seconds")}
    names = ("run", "seed", "base_digest", "data_digest", "data_file", "num_trainable", "num_parameters")
    facts |= {name: known[name] for name in names}
    return {
        "config": readable(json.dumps(known["config"], indent=2, ensure_ascii=False)),
        "software": [{name: escaped(version) for name, version in of.items()} for of in known["software"]],
        "facts": {name: escaped(str(fact)) for name, fact in facts.items() if fact is not None},
    }


def clients_part(journal: Journal, clients: Names, workers: Names) -> Part:
    """How much data each client announced, and who hosts it."""
    hosted = journal.all_hosted()
    return {
        "client": [clients.number(name) for name in hosted],
        "examples": [known.num_examples for known in hosted.values()],
        "tokens": [known.num_tokens for known in hosted.values()],
        "workers": [[workers.number(worker) for worker in known.workers] for known in hosted.values()],
        "gone": column([known.gone for known in hosted.values()]),
    }


def round_part(state: str, updates: Sequence[Mapping[str, Any]], clients: Names, workers: Names) -> Part:
    """A round, with a place in each column for every update that came.

    Args:
      state: open, frozen or committed.
      updates: that came in it.
      clients, workers: their numbers.
    """
    return {
        "state": state,
        "bytes": total_bytes(updates),
        "client": [clients.number(update["client"]) for update in updates],
        "worker": column([workers.number(update["worker"]) for update in updates]),
        "loss": column([number(update["train_loss"]) for update in updates]),
        "seconds": column([number(update["train_seconds"], 2) for update in updates]),
    }


def score_part(score: Mapping[str, Any], clients: Names) -> Part:
    """The evaluation of a version, from `global_metrics`."""
    own = score.get("clients", {})
    return {
        "loss": number(score["eval_loss"]),
        "perplexity": number(score["perplexity"]),
        "client": [clients.number(name) for name in own],
        "losses": column([number(of["eval_loss"]) for of in own.values()]),
    }


def texts_part(rows: Sequence[Mapping[str, Any]]) -> Part:
    """Openings and continuations of one version."""
    return [[readable(str(row["prompt"])), readable(str(row["text"]))] for row in rows]


def timeline_part(journal: Journal, first: int, last: int) -> Part:
    """Spans of the rounds from `first` to `last`, by column; seconds are since `begin`."""
    spans, who, worker = timeline(journal, first, last), Names(), Names()
    begin = min((span["start"] for span in spans), default=0.0)
    return {
        "begin": begin,
        "kind": column([span["kind"] for span in spans]),
        "round": column([span["round"] for span in spans]),
        "who": column([who.number(span["who"]) for span in spans]),
        "worker": column([worker.number(span["worker"]) for span in spans]),
        "start": [round(span["start"] - begin, 3) for span in spans],
        "end": [round(span["end"] - begin, 3) for span in spans],
        "names": who.shown(),
        "workers": worker.shown(),
    }
