"""Hundreds of rounds in which workers come and go: nothing piles up, and the model is what it would have been."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from conftest import Coordinating, Federation
from running import Running, children, kill_pid

CLIENTS = [f"client_{k}" for k in range(6)]
ROUNDS, EVERY, WORKERS = 300, 10, 4
#: Rounds after which what is remembered of the last ones has its size.
WARM = 60


def start(federation: Federation, name: str) -> Coordinating:
    federated = {"num_clients": 6, "clients_per_round": 4, "num_rounds": ROUNDS, "save_every": ROUNDS}
    return federation.coordinator(federation.config(name, federated=federated | {"save_client_adapters": False}))


def join(federation: Federation, coordinator: Coordinating, number: int) -> Running:
    return federation.noop_worker(coordinator.address, f"w{number}", clients=CLIENTS, shape=[20_000])


def held(pid: int) -> tuple[float, int]:
    """Resident memory (MB) and open files of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024, len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.nightly
def test_workers_that_come_and_go_leave_nothing_behind(federation: Federation) -> None:
    quiet = start(federation, "quiet")
    join(federation, quiet, 0)
    undisturbed = quiet.ended_well()

    coordinator = start(federation, "run")
    workers = [join(federation, coordinator, number) for number in range(WORKERS)]
    stays, ended, before = workers[0], 0, [(0.0, 0)]
    for round in range(EVERY, ROUNDS, EVERY):
        coordinator.process.wait_line(rf"^round +{round}/{ROUNDS}")
        if round == WARM:
            before = [held(coordinator.process.pid), held(stays.pid)]
        goes = workers.pop(1)
        trainers = children(goes.pid)
        match ended % 3:
            case 0:
                goes.kill()
                for trainer in trainers:
                    kill_pid(trainer)
            case 1:
                kill_pid(trainers[0])  # its agent starts another
                goes.signal(signal.SIGTERM)
            case _:
                goes.signal(signal.SIGTERM)
        ended += 1
        workers.append(join(federation, coordinator, WORKERS + ended))
    after = [held(coordinator.process.pid), held(stays.pid)]
    assert coordinator.ended_well() == undisturbed
    joined = coordinator.process.text("stdout").count(" joined on cpu: 6 clients")
    assert ended == ROUNDS // EVERY - 1 and joined > ended, "they came and went"
    for (mb, files), (more_mb, more_files) in zip(before, after, strict=True):
        assert more_mb - mb < 16 and more_files - files < 16, (before, after)
