"""What is made from the journal of a run, and can be made again at any time: its files, and its summary."""

from __future__ import annotations

from typing import Any

from fedmq.runtime.server import FederatedServer
from fedmq.storage.metrics import total_bytes


def write_derived(server: FederatedServer, title: str, shared: str) -> None:
    """training_metrics.json, global_metrics.json and training_progress.png, from the journal.

    Args:
      server: of the run.
      title: of the plot.
      shared: the factors that are (`TrainingRecipe.shared`): where not both are, clients' own models were scored.
    """
    from fedmq.report.plots import training_progress

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
        scored="global model, test split" if shared == "both" else "clients' own models, held-out texts",
    )


def summary(server: FederatedServer, log_dir: str) -> dict[str, Any]:
    """The run in one JSON-able object: rounds, perplexities, bytes, digest, generations, folders."""
    journal, last, scores = server.journal, server.journal.last_committed(), server.scores()
    assert last is not None
    return {
        "output_dir": str(server.run_dir),
        "log_dir": log_dir,
        "rounds": last,
        "digest": journal.digest(last),
        "perplexity": {str(v): score["perplexity"] for v, score in scores.items()},
        **total_bytes(server.rounds()),
        "eval_loss": {str(v): score["eval_loss"] for v, score in scores.items()},
        "unscored_clients": {str(v): found for v, score in scores.items() if (found := score.get("unscored_clients"))},
        "generations": [
            {"prompt": g["prompt"], "text": g["text"]} for g in journal.generations() if g["version"] == last
        ],
    }
