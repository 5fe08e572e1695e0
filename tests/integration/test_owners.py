"""What the project is for: two owners, each with a CSV of its own and no shared folder, train together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Federation, write_tweets
from safetensors.numpy import load_file

from fedmq.data.shards import open_split, read_info
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import load_for_inference


def test_two_owners_train_together(federation: Federation, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    folder = federation.folder
    settings = tiny_settings(num_clients=2, clients_per_round=2) | {"data": {"dataset_path": "nowhere.csv"}}
    coordinator = federation.coordinator(federation.config(**settings))
    owners = {}
    for seed, (name, rows) in enumerate({"a": 40, "b": 90}.items(), 1):
        home = folder / f"host_{name}"
        home.mkdir()
        csv = write_tweets(home / f"{name}.csv", rows, seed=seed)
        owners[name] = federation.fedmq(
            *("worker", "--connect", coordinator.address, "--data", csv, "--client", name, "--name", f"host_{name}"),
            *("--device", "cpu", "--num-threads", 1, "--work-dir", home / "work"),
        )
    coordinator.ended_well()
    assert [owner.end() for owner in owners.values()] == [0, 0]

    run = folder / "run"
    metrics = json.loads((run / "training_metrics.json").read_text())
    for row in metrics["round_metrics"]:
        workers = {client["client_id"]: client["worker_id"] for client in row["client_metrics"]}
        assert workers == {"client_a": "host_a", "client_b": "host_b"}
        for client in workers:
            assert load_file(run / client / f"round_{row['round']}" / "adapter_model.safetensors")

    # Every owner scored its own held-out texts; the whole is their mean by tokens.
    model = load_for_inference(
        settings["model"]["model_name"], run / "global_model" / "round_final", device="cpu", max_length=24
    )
    scores = []
    for name in owners:
        shard = folder / f"host_{name}" / "work" / "shards" / f"client_{name}"
        assert read_info(shard).splits.keys() == {"train", "val", "test"}
        scores.append(evaluate(model, open_split(shard, "test"), batch_size=8))
    assert scores[0].num_tokens != scores[1].num_tokens
    expected = sum(s.loss_sum for s in scores) / sum(s.num_tokens for s in scores)
    assert metrics["training_history"]["global_loss"][-1] == pytest.approx(expected, rel=1e-5)

    coordinator_files = [path for path in (*run.rglob("*"), *(folder / "run_logs").rglob("*")) if path.is_file()]
    for path in coordinator_files:
        content = path.read_bytes()
        assert b"has not arrived yet" not in content and b"talk to a human" not in content, path
