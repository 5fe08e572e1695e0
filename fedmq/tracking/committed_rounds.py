"""Committed rounds as rows of metrics.jsonl, and a row as the scalars of a tracker. All of it is in run.db."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedmq.report.series import finite, spread
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import global_metrics, round_metrics

Row = Mapping[str, Any]


def rows(journal: Journal, first: int = 0) -> list[dict[str, Any]]:
    """A row per committed round, 0 = before training, from `first` on.

    Returns:
      round; committed_at (seconds since 1970); digest (SHA-256 of the adapter); eval_loss (nats per token) and
      perplexity; seconds; bytes_up, bytes_down; aggregation_bias; train_loss by client (nats per token); fairness:
      best, median, tenth, worst of the clients' losses, evaluated where they are, else of training. What is not
      known is null.
    """
    scores = global_metrics(journal, first)
    metrics = {row["round"]: row for row in round_metrics(journal, max(1, first))}
    found = []
    for entry in journal.rounds(first):
        if entry["state"] != "committed":
            continue
        score, own = scores.get(entry["round"], {}), metrics.get(entry["round"], {})
        trained = {row["client_id"]: _number(row["train_loss"]) for row in own.get("client_metrics", [])}
        evaluated = {name: _number(client["eval_loss"]) for name, client in score.get("clients", {}).items()}
        found.append(
            {
                "round": entry["round"],
                "committed_at": entry["committed_at"],
                "digest": entry["digest"],
                "eval_loss": _number(score.get("eval_loss")),
                "perplexity": _number(score.get("perplexity")),
                **{name: own.get(name) for name in ("seconds", "bytes_up", "bytes_down", "aggregation_bias")},
                "train_loss": trained,
                "fairness": _fairness(evaluated or trained),
            }
        )
    return found


def lines(found: list[dict[str, Any]]) -> bytes:
    """The content of metrics.jsonl.

    Example:
      >>> lines([{"round": 0}, {"round": 1}])
      b'{"round": 0}\\n{"round": 1}\\n'
    """
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in found).encode()


def scalars(row: Row) -> dict[str, float]:
    """What a tracker draws of a row, by name; what is not known is left out.

    Example:
      >>> scalars({"eval_loss": 2.5, "perplexity": None, "bytes_up": 10, "train_loss": {"client_0": 3.0}})
      {'global/loss': 2.5, 'bytes/up': 10.0, 'train_loss/client_0': 3.0}
    """
    return {name: float(value) for name, value in _named(row) if value is not None}


def _named(row: Row) -> Iterator[tuple[str, float | None]]:
    yield "global/loss", row.get("eval_loss")
    yield "global/perplexity", row.get("perplexity")
    yield "bytes/up", row.get("bytes_up")
    yield "bytes/down", row.get("bytes_down")
    yield "round/seconds", row.get("seconds")
    yield "round/aggregation_bias", row.get("aggregation_bias")
    yield from ((f"fairness/{name}", value) for name, value in (row.get("fairness") or {}).items())
    yield from ((f"train_loss/{client}", value) for client, value in row.get("train_loss", {}).items())


def _fairness(losses: Mapping[str, float | None]) -> dict[str, float] | None:
    known = spread({client: finite(loss) for client, loss in losses.items()})
    return None if known is None else {name: getattr(known, name) for name in ("best", "median", "tenth", "worst")}


def _number(value: float | None) -> float | None:
    """JSON has no infinities: a loss that is no number is null."""
    return None if value is None or not math.isfinite(value) else float(value)
