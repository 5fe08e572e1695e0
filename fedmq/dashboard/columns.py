"""What `inspect_run` found as columns: a tenth of the bytes, for a page that has a second to draw 50 000 trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TOTALS = (
    "run_dir",
    "experiment_name",
    "status",
    "reason",
    "num_rounds",
    "committed",
    "live",
    "bytes_up",
    "bytes_down",
)
_AS_FOUND = ("generations", "damage", "warnings", "provenance")


def run_columns(found: Mapping[str, Any]) -> dict[str, Any]:
    """A run as the page wants it.

    Args:
      found: of `fedmq.inspection.inspect_run`.

    Returns:
      Its totals as they are; "scores" and "rounds" as lists of equal length; "evaluated" and "trained" as a row of
      losses for each client, nats per token, a place for each of "scores" or "rounds", None where it has none.
    """
    versions, rounds = [int(version) for version in found["scores"]], found["rounds"]
    scores = list(found["scores"].values())
    return {name: found[name] for name in (*_TOTALS, *_AS_FOUND)} | {
        "scores": {
            "version": versions,
            "loss": [_short(score["eval_loss"]) for score in scores],
            "perplexity": [_short(score["perplexity"]) for score in scores],
        },
        "rounds": {name: [row[name] for row in rounds] for name in ("round", "seconds", "bytes_up", "bytes_down")}
        | {"clients": [len(row["client_metrics"]) for row in rounds]},
        "evaluated": _rows(
            {name: own["eval_loss"] for name, own in score.get("clients", {}).items()} for score in scores
        ),
        "trained": _rows({row["client_id"]: row["train_loss"] for row in of["client_metrics"]} for of in rounds),
        "workers": _workers(found),
    }


def span_columns(timeline: Iterable[Mapping[str, Any]], round: int) -> dict[str, list[Any]]:
    """The spans of one round, a list for each field.

    Example:
      >>> span = {"kind": "train", "round": 1, "who": "a", "worker": "w", "start": 2.0, "end": 3.0}
      >>> span_columns([span, span | {"round": 2}], 2)
      {'kind': ['train'], 'who': ['a'], 'worker': ['w'], 'start': [2.0], 'end': [3.0]}
    """
    spans = [span for span in timeline if span["round"] == round]
    return {name: [span[name] for span in spans] for name in ("kind", "who", "worker", "start", "end")}


def _rows(by_time: Iterable[Mapping[str, float]]) -> dict[str, list[float | None]]:
    times = list(by_time)
    names = sorted({name for of in times for name in of})
    return {name: [_short(of.get(name)) for of in times] for name in names}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _workers(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each worker: the clients it hosts, how much it trained, and the round of its last update."""
    workers: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        return workers.setdefault(name, {"clients": 0, "trainings": 0, "seconds": 0.0, "last_round": None})

    for client in found["provenance"]["clients"].values():
        for name in client["workers"]:
            of(name)["clients"] += 1
    for row in found["rounds"]:
        for update in row["client_metrics"]:
            worker = of(update["worker_id"])
            worker["trainings"] += 1
            worker["seconds"] += update["train_seconds"]
            worker["last_round"] = row["round"]
    return dict(sorted(workers.items()))
