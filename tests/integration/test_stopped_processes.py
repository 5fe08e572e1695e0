"""Processes that stand still or die between two steps, files that rot meanwhile: the same model, each update once."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from bad_network import IMPATIENT, BadNetwork, Start, settings, undisturbed
from conftest import Federation
from impatient_fedmq import DEAD_S
from running import REPO, accepted, children, eventually, kill_pid

from fedmq.storage.journal import Journal

SIZE = 12_500


def counts_once(network: BadNetwork) -> None:
    network.ends_as_undisturbed()
    assert len(accepted(network.run_dir, 1)) == 2


@pytest.mark.parametrize("patient", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_worker_that_stands_still_for_a_while_comes_back(bad_network: Start, patient: bool) -> None:
    network = bad_network(SIZE, patient=patient)
    worker = network.start_worker()
    network.gate.reached()
    worker.signal(signal.SIGSTOP)
    network.coordinator.process.wait_line("w0 has been silent")
    worker.signal(signal.SIGCONT)
    network.coordinator.process.wait_line("w0 is back")
    network.train()
    counts_once(network)
    assert network.said("lost") == []


@pytest.mark.parametrize("patient", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_worker_that_was_given_up_brings_its_update_in_time(bad_network: Start, patient: bool) -> None:
    network = bad_network(SIZE, patient=patient)
    worker = network.start_worker()
    network.gate.reached()
    worker.signal(signal.SIGSTOP)
    network.train(1)  # the trainer does not stand still
    network.coordinator.process.wait_line("w0 lost .no sign of life")
    worker.signal(signal.SIGCONT)
    network.train(1)
    counts_once(network)
    assert worker.end() == 0


def test_a_trainer_that_holds_its_interpreter_is_stalled_and_its_worker_as_alive_as_before(
    federation: Federation,
) -> None:
    """For longer than the time after which a worker that says nothing is given up. Then it goes on, and is in time."""
    sections = settings(num_rounds=1)
    sections["federated"]["stall_timeout_s"] = DEAD_S + 1
    coordinator = federation.coordinator(federation.config(**sections), command=IMPATIENT)
    gate, ticks = federation.gate("holding"), federation.folder / "ticks"
    worker = federation.start(
        *(
            sys.executable,
            REPO / "benchmarks" / "worker_with_trainer.py",
            Path(__file__).with_name("holding_trainer.py"),
        ),
        *(coordinator.address, "w0", federation.folder / "w0", "none"),
        FEDMQ_NOOP=json.dumps({"shape": [SIZE], "evaluates": False}),
        FEDMQ_GATE=str(gate.path),
        FEDMQ_TICKS=str(ticks),
    )
    gate.reached()
    held = ticks.stat().st_size
    stalled = r"train client_\d failed on w0 \(STALLED: no progress for \d+ s at step 3 of 10\)"
    coordinator.process.wait_line(stalled)
    assert ticks.stat().st_size == held > 0, "no other thread of the trainer ran"
    for _ in range(2):
        gate.open()
    assert coordinator.ended_well() == undisturbed(SIZE, 1)
    assert ticks.stat().st_size > held
    assert not [word for word in ("silent", "lost", "CRASHED") if word in coordinator.process.output()]
    assert worker.end() == 0


@pytest.mark.nightly
def test_a_trainer_that_stands_still_does_not_stop_the_heartbeats(bad_network: Start) -> None:
    """It does nothing at all."""
    network = bad_network(SIZE)
    worker = network.start_worker()
    network.gate.reached()
    (trainer,) = children(worker.pid)
    os.kill(trainer, signal.SIGSTOP)
    up = network.proxy.line("control", "up")
    before = up.pieces
    eventually(lambda: up.pieces > before + 2 * DEAD_S + 2, "more heartbeats than a dead worker would have missed")
    os.kill(trainer, signal.SIGCONT)
    network.train()
    counts_once(network)
    assert network.said("lost") == network.said("silent") == []


@pytest.mark.parametrize("patient", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_coordinator_that_stands_still(bad_network: Start, patient: bool) -> None:
    """Its worker goes on training, connects anew, and finds it the same when it comes back."""
    network = bad_network(SIZE, patient=patient)
    worker = network.start_worker()
    network.gate.reached()
    network.coordinator.process.signal(signal.SIGSTOP)
    network.train(1)
    outbox = network.work_dir / "outbox"
    eventually(lambda: list(outbox.glob("train-1-*.offer")), "an update finished while nobody listens")
    worker.wait_line("nothing heard from the coordinator: connecting anew", "stderr")
    network.coordinator.process.signal(signal.SIGCONT)
    network.train(1)
    counts_once(network)
    assert worker.end() == 0
    journal = Journal.open(network.run_dir / "run.db", read_only=True)
    assert journal.require("epoch") == "0", "it was not started again"
    journal.close()


def test_a_worker_killed_when_its_update_is_finished_offers_it_from_disk(bad_network: Start) -> None:
    network = bad_network(SIZE)
    worker = network.start_worker()
    network.gate.reached()
    network.proxy.hold("up")
    network.train(1)
    outbox = network.work_dir / "outbox"
    held = network.proxy.line("control", "up")
    eventually(lambda: held.holds and list(outbox.glob("train-1-*.offer")), "an update that cannot be offered")
    trainers = children(worker.pid)
    worker.kill()
    for trainer in trainers:
        kill_pid(trainer)
    network.proxy.release()
    again = network.start_worker()
    network.train(1)  # of the other client: to train this one again would be to wait for ever
    counts_once(network)
    assert again.end() == 0


def test_a_workers_copy_of_an_adapter_that_rotted_while_it_was_down_is_fetched_again(bad_network: Start) -> None:
    network = bad_network(SIZE)
    worker = network.start_worker()
    network.gate.reached()
    trainers = children(worker.pid)
    worker.kill()
    for trainer in trainers:
        kill_pid(trainer)
    (copy,) = (network.work_dir / "blobs").iterdir()
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    network.gate = network.federation.gate("later")
    network.start_worker()
    network.gate.reached()
    assert copy.read_bytes() == content
    network.train()
    counts_once(network)
    down = sum(row["bytes_down"] for row in accepted(network.run_dir, 1))
    assert len(content) < down < 1.01 * len(content) + 1000
