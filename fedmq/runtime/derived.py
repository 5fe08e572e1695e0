"""The files of a run that are made from its journal, and can be made again at any time."""

from __future__ import annotations

import json
from typing import Any

from fedmq.runtime.server import FederatedServer


def write_derived(server: FederatedServer, title: str) -> None:
    """training_metrics.json, global_metrics.json and training_progress.png, from the journal."""
    from fedmq.report.plots import training_progress

    config: dict[str, Any] = json.loads(server.journal.require("config"))
    own = config.get("federated", {}).get("lora_aggregation") == "fedsa"

    server.write_derived()
    scores = server.scores()
    if not scores:
        return
    per_client: dict[str, list[tuple[int, float]]] = {}
    for update in server.journal.updates():
        per_client.setdefault(update["client"], []).append((update["round"], update["train_loss"]))
    training_progress(
        server.run_dir / "training_progress.png",
        list(scores),
        [score["eval_loss"] for score in scores.values()],
        [score["perplexity"] for score in scores.values()],
        per_client,
        title,
        scored="clients' own models, held-out texts" if own else "global model, test split",
    )
