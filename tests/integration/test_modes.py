"""Modes between real processes: an asynchronous run that is killed and goes on, and one by the virtual clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import eventually, fedmq, here

from fedmq.storage.journal import Journal

CLIENTS = [f"client_{k}" for k in range(4)]
ASYNC = {
    "mode": "async",
    "num_clients": 4,
    "clients_per_round": 3,
    "num_rounds": 6,
    "async_options": {"buffer_size": 2, "max_staleness": 50},
}


def folded(run_dir: Path) -> list[tuple[int, str, int]]:
    """Of each update that counts: its version, its client, the round in which its training began."""
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        rounds = [row["round"] for row in journal.rounds(1) if row["state"] == "committed"]
        return [(r, row["client"], row["started"]) for r in rounds for row in journal.folded(r)]
    finally:
        journal.close()


def hosts(federation: Federation, address: str, gates: dict[str, str]) -> None:
    for client in CLIENTS:
        federation.noop_worker(address, f"w_{client}", clients=[client], gates=gates)


def test_a_client_that_hangs_holds_nobody_up_and_counts_when_it_comes(federation: Federation) -> None:
    """One client's training waits at a gate while the others make versions; then its update counts, versions late."""
    gate = federation.gate("slow")
    coordinator = federation.coordinator(federation.config("run", federated=ASYNC | {"num_rounds": 30}))
    hosts(federation, coordinator.address, {"client_3": str(gate.path)})
    run_dir = federation.folder / "run"
    eventually(lambda: len(folded(run_dir)) >= 8, "four versions without it")
    assert all(client != "client_3" for _, client, _ in folded(run_dir))
    gate.reached()
    gate.open()
    eventually(lambda: any(c == "client_3" for _, c, _ in folded(run_dir)), "a version with it")
    (version, _, began) = next(row for row in folded(run_dir) if row[1] == "client_3")
    assert version - began >= 3, "it was late, and counts"
    coordinator.process.kill()


@pytest.mark.parametrize("whom", ["the coordinator", "a worker", "all"])
def test_killed_and_gone_on_with(federation: Federation, free_port: int, whom: str) -> None:
    """Every version is made of a whole buffer, and no training counts twice, whoever was killed when."""
    gate = federation.gate("slow")
    config = federation.config("run", federated=ASYNC)
    coordinator = federation.coordinator(config, port=free_port)
    gates = {"client_3": str(gate.path)}
    workers = {
        client: federation.noop_worker(coordinator.address, f"w_{client}", clients=[client], gates=gates)
        for client in CLIENTS
    }
    run_dir = federation.folder / "run"
    eventually(lambda: len(folded(run_dir)) >= 4, "two versions")
    before = folded(run_dir)[:4]
    killed = {"the coordinator": [], "a worker": ["client_1"], "all": CLIENTS}[whom]
    for client in killed:
        workers[client].kill()
    if whom != "a worker":
        coordinator.process.kill()
        coordinator = federation.coordinator(config, "--resume", port=free_port)
    gate.open()
    for client in killed:
        federation.noop_worker(coordinator.address, f"w_{client}", clients=[client])
    coordinator.ended_well()
    counted = folded(run_dir)
    assert counted[:4] == before, "what was committed stays"
    assert [sum(version == k for version, _, _ in counted) for k in range(1, 7)] == [2] * 6
    assert len({(client, began) for _, client, began in counted}) == len(counted) == 12
    assert all(began <= version for version, _, began in counted)


@pytest.mark.nightly
def test_by_the_virtual_clock_the_same_model_again(
    tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]
) -> None:
    """Real trainings of the bundled kind: two runs give the same bytes, and real time plays no part."""
    settings = tiny_settings(mode="async", num_rounds=4, async_options={"buffer_size": 1})
    (tmp_path / "config.json").write_text(json.dumps(settings))
    digests = []
    for name in ("a", "b"):
        done = fedmq(
            *("run", "config.json", "--virtual-clock", "--speed", "client_0=0.4", "--output-dir", name), cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "time is virtual" in done.stdout
        digests.append(done.stdout.split("adapter SHA-256 ")[1].split()[0])
    assert digests[0] == digests[1]
    found = json.loads(fedmq("inspect", "a", "--json", cwd=tmp_path).stdout)
    late = [client["staleness"] for row in found["rounds"] for client in row["client_metrics"]]
    assert (len(late) == 4 and max(late) == 0) or max(late) > 0
    again = fedmq("run", "config.json", "--virtual-clock", "--output-dir", "a", "--resume", cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), "other speeds are another run"


def test_what_the_virtual_clock_refuses(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_settings()))
    for arguments, said in {
        ("--speed", "client_7=2"): "the speed of client_7: this run has no such client; did you mean client_",
        ("--speed", "client_0=0"): "the speed of client_0: got 0, expected a number > 0",
        ("--speed", "client_0"): "got 'client_0', expected CLIENT=X",
        ("--virtual-clock", "--workers", "2"): "by a virtual clock one process trains for all clients",
    }.items():
        done = here("run", "config.json", *arguments, "--output-dir", "out", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and said in done.stderr, done.stderr
        assert not (tmp_path / "out" / "run.db").exists()
