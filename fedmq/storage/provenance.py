"""What it takes to make a run again, and what it was made of: read from its journal."""

from __future__ import annotations

import json
from typing import Any

from fedmq.storage.journal import Journal

_DATA = "data/"


def provenance(journal: Journal) -> dict[str, Any]:
    """JSON-able: config, seed, software, digests. Unknown is None or empty; the run's secret is in none of it."""
    config = json.loads(journal.get("config") or "{}")
    started = journal.get("started_at")
    prepared, decisive = json.loads(journal.get("data") or "{}"), json.loads(journal.get("decisive") or "{}")
    return {
        "run": journal.get("run"),
        "started_at": None if started is None else float(started),
        "config": config,
        # What decided the result, and no config says.
        "speeds": decisive.get("speeds"),
        "aggregator": decisive.get("aggregator"),
        "seed": config.get("seed"),
        "software": json.loads(journal.get("software") or "[]"),
        "base_digest": journal.get("base_digest"),
        "data_digest": prepared.get("inputs"),
        "data_file": prepared.get("file"),
        "client_data_digests": dict(sorted(_client_digests(journal).items())),
        "num_trainable": _number(journal.get("num_trainable")),
        "num_parameters": _number(journal.get("num_parameters")),
        "clients": {
            name: {"num_examples": known.num_examples, "num_tokens": known.num_tokens, "workers": list(known.workers)}
            for name, known in sorted(journal.all_hosted().items())
        },
    }


def _client_digests(journal: Journal) -> dict[str, str]:
    return {name: value for name in journal.all_hosted() if (value := journal.get(_DATA + name)) is not None}


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
