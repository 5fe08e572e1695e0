"""Processes that die at the worst moment: the run goes on, and ends with the model that it would have had."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from functools import partial

import pytest
from bad_network import IMPATIENT
from conftest import Coordinating, Federation, digest_once
from running import FEDMQ, accepted, children, eventually, fedmq, kill_pid, wait_accepted, wait_gone

CLIENTS = ["client_0", "client_1"]


def settings(num_rounds: int = 1, **federated: object) -> dict[str, object]:
    return {"num_clients": 2, "clients_per_round": 2, "num_rounds": num_rounds, **federated}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Number of rounds -> the digest of that many rounds without any fault."""

    def run(federation: Federation, num_rounds: int) -> str:
        coordinator = federation.coordinator(federation.config(federated=settings(num_rounds)))
        federation.noop_worker(coordinator.address, "w0")
        return coordinator.ended_well()

    return {n: digest_once(tmp_path_factory, f"faults-{n}", partial(run, num_rounds=n)) for n in (1, 2)}


def test_worker_killed_in_a_round(federation: Federation, undisturbed: dict[int, str]) -> None:
    coordinator = federation.coordinator(federation.config(federated=settings()))
    gates = {name: federation.gate(name) for name in ("w0", "w1")}
    workers = {
        name: federation.noop_worker(coordinator.address, name, gates=dict.fromkeys(CLIENTS, str(gate.path)))
        for name, gate in gates.items()
    }
    for gate in gates.values():
        gate.reached()
    trainers = children(workers["w0"].pid)
    workers["w0"].kill()
    for trainer in trainers:
        kill_pid(trainer)
    gates["w1"].open()
    lost = coordinator.process.wait_line(r"w0 lost \(its link is closed\): train (client_\d) goes to another worker")
    gates["w1"].open()
    assert coordinator.ended_well() == undisturbed[1]
    rows = accepted(federation.folder / "run", 1)
    assert {row["client"]: row["worker"] for row in rows} == dict.fromkeys(CLIENTS, "w1")
    assert lost[1] in CLIENTS


@pytest.mark.parametrize(
    "command", [IMPATIENT, pytest.param(FEDMQ, marks=pytest.mark.nightly)], ids=["impatient", "patient"]
)
def test_worker_that_hangs_is_lost_by_its_silence_and_comes_back(
    federation: Federation, undisturbed: dict[int, str], command: Sequence[object]
) -> None:
    coordinator = federation.coordinator(federation.config(federated=settings()), command=command)
    gates = {name: federation.gate(name) for name in ("w0", "w1")}
    workers = {
        name: federation.noop_worker(coordinator.address, name, gates=dict.fromkeys(CLIENTS, str(gate.path)))
        for name, gate in gates.items()
    }
    for gate in gates.values():
        gate.reached()
    workers["w0"].signal(signal.SIGSTOP)
    gates["w1"].open()
    coordinator.process.wait_line(r"w0 lost \(no sign of life.*\): train client_\d goes to another worker")
    gates["w1"].reached()
    workers["w0"].signal(signal.SIGCONT)
    eventually(lambda: len(re.findall("w0 joined", coordinator.process.output())) == 2, "w0 joining again")
    for gate in gates.values():
        gate.open()
    assert coordinator.ended_well() == undisturbed[1]
    assert [worker.end() for worker in workers.values()] == [0, 0]


def test_trainer_killed_in_a_task(federation: Federation, undisturbed: dict[int, str]) -> None:
    coordinator = federation.coordinator(federation.config(federated=settings()))
    gate = federation.gate("client_0")
    worker = federation.noop_worker(coordinator.address, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    (trainer,) = children(worker.pid)
    kill_pid(trainer)
    gate.open()
    coordinator.process.wait_line(r"train client_0 failed on w0 \(CRASHED: .*SIGKILL.*\): trying again")
    gate.open()
    assert coordinator.ended_well() == undisturbed[1]
    assert worker.end() == 0


def test_a_trainer_that_hangs_is_stopped_and_its_task_goes_to_another(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    """Its agent heartbeats on, and says so: alive, and without a step."""
    coordinator = federation.coordinator(federation.config(federated=settings(stall_timeout_s=1.0)))
    gates = {client: federation.gate(client) for client in CLIENTS}
    federation.noop_worker(coordinator.address, "w0", gates={c: str(gate.path) for c, gate in gates.items()})
    gates["client_1"].reached()
    coordinator.process.wait_line(r"train client_1 failed on w0 \(STALLED: no progress for \d+ s at step 0 of 0\)")
    federation.noop_worker(coordinator.address, "w1")
    assert coordinator.ended_well() == undisturbed[1]
    assert {row["worker"] for row in accepted(federation.folder / "run", 1)} == {"w1"}


def test_a_round_is_abandoned_at_its_deadline_and_the_next_draw_goes_on(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    """Its clients are drawn anew; what was accepted counts. Killed in between, it goes on with the second draw."""
    config = federation.config(federated=settings(round_deadline_s=2.0))
    coordinator = federation.coordinator(config)
    gate = federation.gate("client_0")
    federation.noop_worker(coordinator.address, "w0", gates={"client_0": str(gate.path)})
    wait_accepted(federation.folder / "run", 1, {"client_1"})
    coordinator.process.wait_line(r"round 1: 1 of 2 updates, the quorum is 2: abandoned, clients are drawn anew")
    coordinator.process.kill()
    again = federation.coordinator(config, "--resume", port=coordinator.port)
    federation.noop_worker(again.address, "w1")
    assert again.ended_well() == undisturbed[1]
    assert {row["client"]: row["worker"] for row in accepted(federation.folder / "run", 1)} == {
        "client_0": "w1",
        "client_1": "w0",
    }


def test_with_over_selection_nobody_waits_for_the_slowest(federation: Federation) -> None:
    config = federation.config(federated=settings(num_clients=3, over_selection=1.5))
    coordinator = federation.coordinator(config)
    gate = federation.gate("client_0")
    clients = ["client_0", "client_1", "client_2"]
    slow = federation.noop_worker(coordinator.address, "w0", clients=clients[:1], gates={"client_0": str(gate.path)})
    federation.noop_worker(coordinator.address, "w1", clients=clients[1:])
    coordinator.ended_well()
    assert {row["client"] for row in accepted(federation.folder / "run", 1)} == {"client_1", "client_2"}
    assert slow.end() == 0


def test_task_that_fails_twice_is_given_up_and_the_round_goes_on_at_quorum(federation: Federation) -> None:
    coordinator = federation.coordinator(federation.config(federated=settings(min_clients=1)))
    federation.noop_worker(coordinator.address, "w0", fails={"client_0": ["no luck", "no luck again"]})
    coordinator.ended_well()
    coordinator.process.wait_line(r"train client_0 failed on w0 \(ERROR: no luck\): trying again")
    coordinator.process.wait_line(r"train client_0 failed on w0 \(ERROR: no luck again\): given up after 2 failures")
    metrics = json.loads((federation.folder / "run" / "training_metrics.json").read_text())
    (row,) = metrics["round_metrics"]
    assert sorted(row["selected_clients"]) == CLIENTS
    assert [client["client_id"] for client in row["client_metrics"]] == ["client_1"]


def test_lost_quorum_fails_the_run_and_resume_goes_on(federation: Federation, undisturbed: dict[int, str]) -> None:
    config = federation.config(federated=settings())
    coordinator = federation.coordinator(config)
    worker = federation.noop_worker(coordinator.address, "w0", fails={"client_0": ["no luck", "no luck again"]})
    assert coordinator.process.end() == 1
    (line,) = [line for line in coordinator.process.lines["stderr"] if line]
    assert "client_0" in line and "no luck again" in line and "quorum" in line and "--resume" in line
    assert worker.end() == 1
    assert json.loads(fedmq("inspect", "run", "--json", cwd=federation.folder).stdout)["status"] == "failed"

    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w1")
    assert again.ended_well() == undisturbed[1]
    workers = {row["client"]: row["worker"] for row in accepted(federation.folder / "run", 1)}
    assert workers == {"client_0": "w1", "client_1": "w0"}, "what was accepted before is kept"


def resumed(federation: Federation, dead: Coordinating) -> Coordinating:
    """The same command again, on the same port."""
    return federation.coordinator(federation.folder / "run.json", "--resume", port=dead.port)


def test_coordinator_killed_in_a_round_and_workers_that_live_rejoin(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    gates = {client: federation.gate(client) for client in CLIENTS}
    coordinator = federation.coordinator(federation.config(federated=settings(num_rounds=2)))
    workers = [
        federation.noop_worker(coordinator.address, f"has_{c}", clients=[c], gates={c: str(gates[c].path)})
        for c in CLIENTS
    ]
    run_dir = federation.folder / "run"
    gates["client_0"].reached()
    gates["client_1"].open()
    wait_accepted(run_dir, 1, {"client_1"})
    before = accepted(run_dir, 1)
    coordinator.process.kill()

    again = resumed(federation, coordinator)
    for client in CLIENTS:
        again.process.wait_line(f"has_{client} joined")
    gates["client_0"].open()
    for gate in gates.values():  # of round 2: in round 1 client_1 is not trained again, or it would wait here for ever
        gate.open()
    assert again.ended_well() == undisturbed[2]
    assert [worker.end() for worker in workers] == [0, 0]
    assert [row for row in accepted(run_dir, 1) if row["client"] == "client_1"] == before


def test_everything_killed_and_finished_updates_are_not_trained_again(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    gates = {client: federation.gate(client) for client in CLIENTS}
    coordinator = federation.coordinator(federation.config(federated=settings()))

    def start_workers(address: str) -> dict[str, object]:
        return {
            c: federation.noop_worker(address, f"has_{c}", clients=[c], gates={c: str(gates[c].path)}) for c in CLIENTS
        }

    workers = start_workers(coordinator.address)
    gates["client_0"].reached()
    gates["client_1"].open()
    wait_accepted(federation.folder / "run", 1, {"client_1"})
    coordinator.process.kill()
    gates["client_0"].open()
    outbox = federation.folder / "noop" / "has_client_0" / "outbox"
    eventually(lambda: list(outbox.glob("train-1-client_0-*.offer")), "an update finished while nobody listens")
    trainers = [pid for worker in workers.values() for pid in children(worker.pid)]
    for worker in workers.values():
        worker.kill()
    for trainer in trainers:
        wait_gone(trainer)

    again = resumed(federation, coordinator)
    start_workers(again.address)  # their gates stay closed: to train again would be to wait for ever
    assert again.ended_well() == undisturbed[1]
    assert {row["client"] for row in accepted(federation.folder / "run", 1)} == set(CLIENTS)
