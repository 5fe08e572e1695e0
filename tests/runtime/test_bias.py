"""The aggregation bias of a round: measured after its commit, once, from what was folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from serving import adapter, give, make_server, started

from fedmq.runtime import bias
from fedmq.runtime.server import FederatedServer

A, B = "h.0.attn.lora_A.weight", "h.0.attn.lora_B.weight"


def one_round(server: FederatedServer, clients: dict[str, tuple[int, int]]) -> None:
    """Round 1 of clients that have trained: seed of the adapter, and number of examples."""
    server.open_round(1, [list(clients)])
    for client, (seed, num_examples) in clients.items():
        give(server, f"train-1-{client}-0", adapter(seed), num_examples=num_examples)
    server.aggregate(1, list(clients))


def dense(clients: dict[str, tuple[int, int]]) -> float:
    total = sum(num_examples for _, num_examples in clients.values())
    parts = [(n / total, adapter(seed)) for seed, n in clients.values()]
    update = sum(p * x[B].astype(np.float64) @ x[A].astype(np.float64) for p, x in parts)
    a, b = (sum(p * x[name].astype(np.float64) for p, x in parts) for name in (A, B))
    return float(np.linalg.norm(update - b @ a) / np.linalg.norm(update))


COHORT = {"client_1": (1, 10), "client_2": (2, 30), "client_3": (3, 5)}


def test_it_is_that_of_the_clients_by_their_weights(tmp_path: Path) -> None:
    server = started(tmp_path)
    one_round(server, COHORT)
    assert server.rounds()[0]["aggregation_bias"] is None  # the round has not waited for it
    server.tidy(())
    assert server.rounds()[0]["aggregation_bias"] == pytest.approx(dense(COHORT), rel=1e-9)


def test_a_crash_before_it_was_measured_loses_nothing(tmp_path: Path) -> None:
    server = started(tmp_path)
    one_round(server, COHORT)
    server.journal.close()
    resumed = make_server(tmp_path)
    resumed.progress()
    assert resumed.rounds()[0]["aggregation_bias"] == pytest.approx(dense(COHORT), rel=1e-9)


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = started(tmp_path)
    one_round(server, COHORT)
    server.tidy(())
    monkeypatch.setattr(bias, "relative_bias", lambda modules: pytest.fail("again"))
    server.progress()


def test_of_many_clients_some_speak_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "MAX_CLIENTS", 2)
    server = started(tmp_path)
    one_round(server, COHORT)
    server.tidy(())
    spaced = {client: COHORT[client] for client in ("client_1", "client_2")}
    assert server.rounds()[0]["aggregation_bias"] == pytest.approx(dense(spaced), rel=1e-9)


def test_large_adapters_fill_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "MAX_NBYTES", 1)
    server = started(tmp_path)
    one_round(server, COHORT)
    server.tidy(())
    spaced = {client: COHORT[client] for client in ("client_1", "client_2")}
    assert server.rounds()[0]["aggregation_bias"] == pytest.approx(dense(spaced), rel=1e-9)


def test_a_file_that_rotted_costs_this_figure_and_nothing_else(tmp_path: Path) -> None:
    server = started(tmp_path)
    one_round(server, COHORT)
    blob = server.blobs.path(server.journal.updates(1)[0]["digest"])
    server.journal.close()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    resumed = make_server(tmp_path)
    assert resumed.progress().version == 1
    assert resumed.rounds()[0]["aggregation_bias"] is None
