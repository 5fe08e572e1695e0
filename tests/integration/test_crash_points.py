"""Killed right before or right after a durable step: the same command with --resume ends with the same models.

By day a slice of the points, at night all of them. The run has all that is durable: a first adapter, two rounds of two
clients that remember what their updates lost, a server optimiser and a download codec that remember, checkpoints of
each round and client, evaluations, texts.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Federation
from running import PATIENCE_S, Running, children, kill_pid

from fedmq.storage.journal import Journal

SETTINGS = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 2, "save_every": 1, "server_optimizer": "nesterov"}
SETTINGS |= {"upload_codec": "sign", "download_codec": "int4"}
#: Some of the points of a coordinator and of a worker, spread over the run; there are about 260 and 58.
COORDINATOR = [*range(1, 20, 6), *range(24, 241, 36)]
WORKER = range(2, 50, 12)


class Result(NamedTuple):
    """What must not depend on where the run was killed."""

    digests: list[str]
    counted: list[tuple[int, str, str]]


def result(run_dir: Path) -> Result:
    """Adapters by version, and what was folded: round, client, digest."""
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        rows = [(row["round"], row["client"], row["digest"]) for row in journal.updates()]
        return Result([row["digest"] for row in journal.rounds()], rows)
    finally:
        journal.close()


class Fragile:
    """A federation of which one process dies at its n-th point; each is started again when it has died."""

    def __init__(self, federation: Federation, port: int, role: str = "none", point: int = 0) -> None:
        self.federation, self.port = federation, port
        self.witness = federation.folder / f"{role}_{point}.died"
        self.env = {"FEDMQ_CRASH_AT": f"{role}:{point}:{self.witness}"}
        name = f"run_{role}_{point}"
        self.run_dir, self.name = federation.folder / name, name
        self.config = federation.config(name, federated=SETTINGS)

    def coordinator(self) -> Running:
        bind = f"tcp://127.0.0.1:{self.port}"
        return self.federation.fedmq("coordinator", self.config, "--bind", bind, "--resume", **self.env)

    def worker(self) -> Running:
        return self.federation.noop_worker(f"tcp://127.0.0.1:{self.port}", self.name, env=self.env, evaluates=True)

    def run(self, power_cut: bool = False) -> Result:
        """To the end. With `power_cut` the others are killed in the same moment, and all are started again."""
        coordinator, worker, well = self.coordinator(), self.worker(), {0}
        first_ended(coordinator, worker)
        if not self.witness.exists():
            coordinator.end()  # a worker that ended first was told that the run is over
        if self.witness.exists():
            if power_cut:
                for process in (coordinator, worker):
                    for pid in [*children(process.pid), process.pid]:
                        kill_pid(pid)
            if not coordinator.running:
                assert coordinator.end() == -signal.SIGKILL
                coordinator = self.coordinator()
            if not worker.running and worker.end() != 0:
                assert worker.end() == -signal.SIGKILL
                worker, well = self.worker(), {0, 6}  # the run may be over by now
        assert coordinator.end() == 0, coordinator.output()
        assert worker.end() in well, worker.output()
        return result(self.run_dir)


def first_ended(*processes: Running) -> None:
    """Wait until one of them has ended."""
    with ExitStack() as stack:
        handles = [os.pidfd_open(process.pid) for process in processes]
        for handle in handles:
            stack.callback(os.close, handle)
        ready, _, _ = select.select(handles, [], [], PATIENCE_S)
        assert ready, "nothing has ended"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Result]:
    federation = Federation(tmp_path_factory.mktemp("undisturbed"))
    yield Fragile(federation, free_port).run()
    federation.end()


def check(folder: Path, port: int, role: str, point: int, expected: Result) -> bool:
    """Whether the run came to this point; that it ended as an undisturbed one is asserted."""
    folder.mkdir(exist_ok=True)
    federation = Federation(folder)
    try:
        fragile = Fragile(federation, port, role, point)
        assert fragile.run(power_cut=point % 2 == 0) == expected, f"{role} killed at point {point}"
        return fragile.witness.exists()
    finally:
        federation.end()


@pytest.mark.parametrize("point", COORDINATOR)
def test_a_coordinator(tmp_path: Path, free_port: int, undisturbed: Result, point: int) -> None:
    assert check(tmp_path, free_port, "coordinator", point, undisturbed), "the fault fired"


@pytest.mark.parametrize("point", WORKER)
def test_a_worker(tmp_path: Path, free_port: int, undisturbed: Result, point: int) -> None:
    assert check(tmp_path, free_port, "worker", point, undisturbed), "the fault fired"


def trainer_killed(finished: Path, federation: Federation, point: int) -> bool:
    """Whether a trainer came to this point; its worker starts another one, and the end is the undisturbed one."""
    settings = json.loads((finished / "config.json").read_text())
    config = federation.config(**{k: v for k, v in settings.items() if k not in ("output_dir", "log_dir")})
    witness = federation.folder / "died"
    run = federation.fedmq("run", config, "--workers", 1, FEDMQ_CRASH_AT=f"trainer:{point}:{witness}")
    assert run.end() == 0, run.output()
    assert result(federation.folder / "run") == result(finished / "run"), f"trainer killed at point {point}"
    return witness.exists()


def test_a_trainer(finished: Path, federation: Federation) -> None:
    """In the middle of writing a client's adapter."""
    assert trainer_killed(finished, federation, 10), "the fault fired"


@pytest.mark.nightly
def test_every_point_of_a_trainer(tmp_path: Path, finished: Path) -> None:
    for point in itertools.count(1):
        (tmp_path / str(point)).mkdir()
        federation = Federation(tmp_path / str(point))
        try:
            if not trainer_killed(finished, federation, point):
                break
        finally:
            federation.end()
    assert point > 25, "there are about thirty"


@pytest.mark.nightly
@pytest.mark.parametrize(("role", "fewest"), [("coordinator", 200), ("worker", 50)])
def test_every_point_there_is(tmp_path: Path, free_port: int, undisturbed: Result, role: str, fewest: int) -> None:
    for point in itertools.count(1):
        if not check(tmp_path / str(point), free_port, role, point, undisturbed):
            break
    assert point > fewest, "the run has many durable steps"
