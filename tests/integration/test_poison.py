"""One worker of a real run sends well-formed lies: a robust rule learns all the same, and the mean does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import REPO, here

HERE = Path(__file__).parent
CLIENTS = 5


@pytest.fixture
def play(federation: Federation, tiny_settings: Callable[..., dict[str, Any]]) -> Callable[[str], list[float]]:
    """A run with an aggregation rule, in which client_4 lies: the loss before and after each round."""

    def run(method: str) -> list[float]:
        folder = federation.folder
        settings = tiny_settings(
            num_clients=CLIENTS, clients_per_round=CLIENTS, data_distribution="iid", aggregation_method=method
        )
        # The bundled base, which knows its language: what a model of random weights says can hardly get worse.
        settings["model"]["model_name"] = "fedmq-tiny"
        config = federation.config(**settings)
        done = here("data", "partition", config, "--out", folder / "parts", cwd=folder)
        assert done.returncode == 0, done.stderr
        shards = [folder / "parts" / "clients" / f"client_{k}" for k in range(CLIENTS)]
        coordinator = federation.coordinator(config)
        honest = federation.fedmq(
            *("worker", "--connect", coordinator.address, "--name", "honest", "--device", "cpu", "--num-threads", 1),
            *(option for path in [*shards[:4], folder / "parts" / "test"] for option in ("--data", path)),
        )
        lies = folder / "lies"
        liar = federation.start(
            *(sys.executable, REPO / "benchmarks" / "worker_with_trainer.py", HERE / "poisoning_trainer.py"),
            *(coordinator.address, "mallory", folder / "mallory", shards[4]),
            FEDMQ_POISONED=str(lies),
        )
        coordinator.ended_well()
        assert (honest.end(), liar.end()) == (0, 0)

        metrics = json.loads((folder / "run" / "training_metrics.json").read_text())
        rows = {row["round"]: row["client_metrics"] for row in metrics["round_metrics"]}
        sent = [line.split() for line in lies.read_text().splitlines()]
        assert [int(round) for round, _ in sent] == list(rows) and all(float(norm) > 1 for _, norm in sent)
        for clients in rows.values():
            workers = {client["client_id"]: client["worker_id"] for client in clients}
            assert workers == {f"client_{k}": "honest" for k in range(4)} | {"client_4": "mallory"}, "the lies counted"
        return list(metrics["training_history"]["global_loss"])

    return run


@pytest.mark.parametrize("method", ["krum", pytest.param("median", marks=pytest.mark.nightly)])
def test_a_robust_rule_learns_beside_a_worker_that_lies(play: Callable[[str], list[float]], method: str) -> None:
    before, first, second = play(method)
    assert second < first < before


@pytest.mark.nightly
def test_the_mean_follows_the_lies(play: Callable[[str], list[float]]) -> None:
    before, first, second = play("fedavg")
    assert min(first, second) > before + 0.1
