"""Clients that are trained together: whatever is killed between two of their uploads, the model is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Federation, digest_once
from running import accepted, children, descendants, digest_of, eventually, kill_pid, wait_accepted

CLIENTS = [f"client_{k}" for k in range(8)]
GROUP, FIRST = CLIENTS[:4], {"client_0", "client_1"}
TOGETHER = ("--set", "training.clients_per_batch=4")


def settings(num_clients: int = 4, num_rounds: int = 1, **federated: object) -> dict[str, object]:
    return {"num_clients": num_clients, "clients_per_round": num_clients, "num_rounds": num_rounds, **federated}


def undisturbed(federation: Federation, num_workers: int, *arguments: object, num_clients: int = 4) -> str:
    """The digest of a run without any fault."""
    config = federation.config(f"{num_workers}_{arguments[-1]}", federated=settings(num_clients))
    coordinator = federation.coordinator(config, *arguments)
    for k in range(num_workers):
        federation.noop_worker(coordinator.address, f"w{k}", clients=CLIENTS[:num_clients])
    return coordinator.ended_well()


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of one round of one group of four."""
    return digest_once(tmp_path_factory, "group-of-four", lambda federation: undisturbed(federation, 1, *TOGETHER))


def test_the_company_shows_and_the_number_of_workers_does_not(federation: Federation) -> None:
    one, three = (undisturbed(federation, n, *TOGETHER, num_clients=8) for n in (1, 3))
    assert one == three
    assert one != undisturbed(federation, 1, "--set", "training.clients_per_batch=1", num_clients=8)


def test_everything_killed_between_two_uploads_of_a_group(federation: Federation, digest: str) -> None:
    """The new worker has none of the old one's updates: it trains all four again, and two of them count no more."""
    config, run_dir = federation.config(federated=settings()), federation.folder / "run"
    gate = federation.gate("client_2")
    coordinator = federation.coordinator(config, *TOGETHER)
    worker = federation.noop_worker(coordinator.address, "w0", clients=GROUP, gates={"client_2": str(gate.path)})
    gate.reached()
    wait_accepted(run_dir, 1, FIRST)
    before = accepted(run_dir, 1)
    trainers = children(worker.pid)
    coordinator.process.kill()
    worker.kill()
    for trainer in trainers:
        kill_pid(trainer)

    again = federation.coordinator(config, *TOGETHER, "--resume", port=coordinator.port)
    other = federation.noop_worker(again.address, "w1", clients=GROUP)
    assert again.ended_well() == digest
    assert other.end() == 0
    assert {row["client"]: row["worker"] for row in accepted(run_dir, 1)} == {
        client: "w0" if client in FIRST else "w1" for client in GROUP
    }
    assert [row for row in accepted(run_dir, 1) if row["client"] in FIRST] == before


def test_coordinator_killed_and_a_worker_that_lives_goes_on_with_its_group(federation: Federation, digest: str) -> None:
    config, run_dir = federation.config(federated=settings()), federation.folder / "run"
    gate = federation.gate("client_2")
    coordinator = federation.coordinator(config, *TOGETHER)
    worker = federation.noop_worker(coordinator.address, "w0", clients=GROUP, gates={"client_2": str(gate.path)})
    gate.reached()
    wait_accepted(run_dir, 1, FIRST)
    coordinator.process.kill()
    again = federation.coordinator(config, *TOGETHER, "--resume", port=coordinator.port)
    again.process.wait_line("w0 joined")
    gate.open()  # once: to train client_2 a second time would be to wait for ever
    assert again.ended_well() == digest
    assert worker.end() == 0


def test_worker_killed_between_two_uploads_and_another_does_the_group_whole(
    federation: Federation, digest: str
) -> None:
    run_dir = federation.folder / "run"
    gate = federation.gate("client_2")
    coordinator = federation.coordinator(federation.config(federated=settings()), *TOGETHER)
    worker = federation.noop_worker(coordinator.address, "w0", clients=GROUP, gates={"client_2": str(gate.path)})
    gate.reached()
    wait_accepted(run_dir, 1, FIRST)
    trainers = children(worker.pid)
    federation.noop_worker(coordinator.address, "w1", clients=GROUP)
    coordinator.process.wait_line("w1 joined")
    worker.kill()
    for trainer in trainers:
        kill_pid(trainer)
    coordinator.process.wait_line(r"w0 lost \(its link is closed\): train client_2, client_3 go to another worker")
    assert coordinator.ended_well() == digest


def test_trainer_killed_in_a_group(federation: Federation, digest: str) -> None:
    gate = federation.gate("client_2")
    coordinator = federation.coordinator(federation.config(federated=settings()), *TOGETHER)
    worker = federation.noop_worker(coordinator.address, "w0", clients=GROUP, gates={"client_2": str(gate.path)})
    gate.reached()
    (trainer,) = children(worker.pid)
    kill_pid(trainer)
    gate.open()
    for client in ("client_2", "client_3"):
        coordinator.process.wait_line(rf"train {client} failed on w0 \(CRASHED: .*SIGKILL.*\): trying again")
    gate.open()
    assert coordinator.ended_well() == digest


def test_one_that_fails_is_made_again_in_its_company(federation: Federation, digest: str) -> None:
    coordinator = federation.coordinator(federation.config(federated=settings()), *TOGETHER)
    federation.noop_worker(coordinator.address, "w0", clients=GROUP, fails={"client_1": ["no luck"]})
    assert coordinator.ended_well() == digest
    coordinator.process.wait_line(r"train client_1 failed on w0 \(ERROR: no luck\): trying again")


@pytest.mark.nightly
def test_a_real_run_killed_again_and_again(
    federation: Federation, tiny_settings: Callable[..., dict[str, Any]]
) -> None:
    """Killed whenever a further update has been accepted, which is between two uploads of a group or of two groups."""
    sections = tiny_settings(num_clients=6, clients_per_round=6, num_rounds=3)
    whole = federation.fedmq("run", federation.config("whole", **sections), "--workers", 1, *TOGETHER)
    assert whole.end() == 0, whole.output()
    config, run_dir = federation.config("run", **sections), federation.folder / "run"

    def num_accepted() -> int:
        return sum(len(accepted(run_dir, round)) for round in (1, 2, 3))

    for _ in range(3):
        seen = num_accepted()
        run = federation.fedmq("run", config, "--workers", 2, *TOGETHER, "--resume")
        eventually(lambda seen=seen: num_accepted() > seen, "a further update")
        family = descendants(run.pid)
        run.kill()
        for pid in family:
            kill_pid(pid)
    run = federation.fedmq("run", config, "--workers", 2, *TOGETHER, "--resume")
    assert run.end() == 0, run.output()
    assert digest_of(run_dir) == digest_of(federation.folder / "whole")
