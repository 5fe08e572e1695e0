"""The metrics of a run, derived from its journal: the files beside run.db can be made again at any time."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmq import atomic
from fedmq.storage.journal import Journal


def perplexity(loss: float) -> float:
    """exp of a mean negative log-likelihood in nats; 1e304 for all that is beyond: JSON knows no infinity.

    Example:
      >>> perplexity(0.0)
      1.0
    """
    return math.exp(min(loss, 700.0))


def readable_perplexity(value: float) -> str:
    """Perplexity for people; of a run that diverges it would have three hundred digits.

    Example:
      >>> readable_perplexity(18.042), readable_perplexity(perplexity(1000.0))
      ('18.04', '1.01e+304')
    """
    return f"{value:.2f}" if value < 1e7 else f"{value:.3g}"


def readable_size(nbytes: int) -> str:
    """Bytes for people.

    Example:
      >>> readable_size(1_234_567), readable_size(1234), readable_size(45_000_000_000)
      ('1.23 MB', '1.2 kB', '45.00 GB')
    """
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def lateness(staleness: int) -> str:
    """What is said of an update that was trained from an older version than its round's; nothing of others.

    Example:
      >>> lateness(2)
      '  2 versions late'
    """
    return f"  {staleness} version{'s' if staleness > 1 else ''} late" if staleness else ""


def total_bytes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What crossed the wire for these updates or rounds, by direction."""
    counted = list(rows)
    return {key: sum(row[key] for row in counted) for key in ("bytes_up", "bytes_down")}


def global_metrics(journal: Journal, first: int = 0) -> dict[int, dict[str, Any]]:
    """By version, from `first` on: token-weighted mean NLL over all evaluated units, and its perplexity.

    Where clients were what it was scored on, `clients` has the same of each, and `unscored_clients` names those of the
    run that are not in the mean: they hold out nothing, came later, or their evaluation is to come or was given up.
    """
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in journal.evaluations(first):
        rows[row["version"]].append(row)
    result, known = {}, set[str]()
    for version, units in rows.items():
        result[version] = _score(units)
        if clients := {row["unit"]: _score([row]) for row in units if row["unit"] != "test"}:
            known = known or set(journal.all_hosted())
            result[version] |= {"clients": clients, "unscored_clients": sorted(known - clients.keys())}
    return result


def coverage(score: Mapping[str, Any]) -> str:
    """What is said of a mean that some of the run's clients are not in; nothing of others.

    Args:
      score: of a version, from `global_metrics`.

    Example:
      >>> coverage({"eval_loss": 2.5, "clients": {"client_0": {}, "client_2": {}}, "unscored_clients": ["client_1"]})
      '  of 2 of 3 clients'
    """
    missing, scored = score.get("unscored_clients", []), score.get("clients", {})
    return f"  of {len(scored)} of {len(scored) + len(missing)} clients" if missing else ""


def _score(units: list[dict[str, Any]]) -> dict[str, Any]:
    loss_sum, num_tokens, num_examples = (
        sum(row[name] for row in units) for name in ("loss_sum", "num_tokens", "num_examples")
    )
    loss = loss_sum / num_tokens
    return {
        "eval_loss": loss,
        "perplexity": perplexity(loss),
        "num_tokens": num_tokens,
        "num_examples": num_examples,
    }


def round_metrics(journal: Journal, first: int = 1) -> list[dict[str, Any]]:
    """One row per committed round, from `first` >= 1 on."""
    scores = global_metrics(journal, first)
    rows = []
    for entry in journal.rounds(first):
        if entry["state"] != "committed":
            continue
        clients = [_client_row(update) for update in journal.updates(entry["round"])]
        frozen = set(entry["frozen"])
        folded = [row for row in clients if row["client_id"] in frozen]
        rows.append(
            {
                "round": entry["round"],
                "selected_clients": entry["selected"],
                "global_metrics": scores.get(entry["round"], {"eval_loss": None, "perplexity": None}),
                "client_metrics": folded,
                "aggregation_bias": entry["bias"],
                "seconds": entry["committed_at"] - entry["opened_at"],
                # Also of updates that came, and were not folded.
                **total_bytes(clients),
                "digest": entry["digest"],
            }
        )
    return rows


def training_metrics(journal: Journal) -> dict[str, Any]:
    """{config, round_metrics, training_history}: what training_metrics.json holds."""
    scores = global_metrics(journal)
    versions = sorted(scores)
    return {
        "config": json.loads(journal.require("config")),
        "round_metrics": round_metrics(journal),
        "training_history": {
            "rounds": versions,
            "global_loss": [scores[v]["eval_loss"] for v in versions],
            "global_perplexity": [scores[v]["perplexity"] for v in versions],
        },
    }


def write_metrics(run_dir: Path, journal: Journal) -> None:
    """Write training_metrics.json and global_metrics.json."""
    atomic.write_json(run_dir / "training_metrics.json", training_metrics(journal))
    rows = [{"round": version, **scores} for version, scores in sorted(global_metrics(journal).items())]
    atomic.write_json(run_dir / "global_metrics.json", rows)


def _client_row(update: dict[str, Any]) -> dict[str, Any]:
    return {
        "client_id": update["client"],
        "round": update["round"],
        "staleness": update["round"] - update["started"],
        "train_loss": update["train_loss"],
        "train_samples": update["num_examples"],
        "num_tokens": update["num_tokens"],
        "num_steps": update["num_steps"],
        "train_seconds": update["train_seconds"],
        "update_norm": update["norm"],
        "bytes_up": update["bytes_up"],
        "bytes_down": update["bytes_down"],
        "worker_id": update["worker"],
        "state_lost": bool(update["state_lost"]),
    }
