"""A run that is interrupted or killed: every process ends, and the folder can be gone on with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import PATIENCE_S, Running, command_line, descendants, eventually, fedmq, wait_gone

from fedmq.inspection import inspect_run

#: What Ctrl-C may take, all told.
SOON_S = 5.0


def training(run_dir: Path) -> bool:
    """Whether a trainer is somewhere in the middle of its steps."""
    live = inspect_run(run_dir)["live"]
    lines = live["awaited"] if live else []
    return any("train client_" in line and ", step " in line and ", step 0/" not in line for line in lines)


def uses_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def processes_of(run: Running) -> tuple[list[int], list[int]]:
    """(agents, trainers) of the run's local workers."""
    pids = descendants(run.pid)
    trainers = [pid for pid in pids if "fedmq.runtime.trainer" in command_line(pid)]
    return [pid for pid in pids if pid not in trainers], trainers


def test_ctrl_c_then_resume_then_sigkill(federation: Federation, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    settings = tiny_settings(clients_per_round=2)
    settings["training"]["num_epochs"] = 1_000_000
    config, run_dir = federation.config(**settings), federation.folder / "run"
    command = ("run", config, "--workers", 2)

    run = federation.fedmq(*command)
    run.wait_line(r"round 0/2 .*\(before training\)")
    eventually(lambda: training(run_dir), "a round in training")
    agents, trainers = processes_of(run)
    assert len(agents) == len(trainers) == 2
    # The coordinator and the agents are light; that torch would be seen is shown by the trainers.
    assert [uses_torch(pid) for pid in (run.pid, *agents, *trainers)] == [False] * 3 + [True] * 2
    run.signal(signal.SIGINT)
    assert run.end(timeout_s=SOON_S) == 130
    for pid in (*agents, *trainers):
        wait_gone(pid, timeout_s=SOON_S)
    (line,) = run.lines["stderr"]
    assert "interrupted by SIGINT" in line and "--resume" in line
    assert inspect_run(run_dir)["status"] == "interrupted"
    history = json.loads((run_dir / "training_metrics.json").read_text())["training_history"]
    assert history["rounds"] == [0]
    assert (run_dir / "global_metrics.json").is_file() and (run_dir / "training_progress.png").is_file()

    refused = fedmq(*command, cwd=federation.folder)
    assert refused.returncode == 2 and "--resume" in refused.stderr and "--overwrite" in refused.stderr
    digest = inspect_run(run_dir)["digest"]
    again = federation.fedmq(*command, "--resume")
    eventually(lambda: training(run_dir), "the same round in training")
    assert inspect_run(run_dir)["digest"] == digest
    agents, trainers = processes_of(again)
    assert len(agents) == len(trainers) == 2
    again.kill()
    for pid in (*agents, *trainers):
        wait_gone(pid, PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_sigterm_to_a_coordinator_pauses_the_run(federation: Federation, number: signal.Signals) -> None:
    config = federation.config(federated={"num_clients": 2, "clients_per_round": 2, "num_rounds": 1})
    coordinator = federation.coordinator(config)
    gate = federation.gate("client_0")
    worker = federation.noop_worker(coordinator.address, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    coordinator.process.signal(number)
    assert coordinator.process.end() == 130
    assert worker.end() == 130, "its run pauses, and so does the worker"
    gate.open()
    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w0")
    again.ended_well()


def test_ctrl_c_to_a_worker_gives_its_task_to_another(federation: Federation) -> None:
    config = federation.config(federated={"num_clients": 2, "clients_per_round": 2, "num_rounds": 1})
    coordinator = federation.coordinator(config)
    gate = federation.gate("client_0")
    leaver = federation.noop_worker(coordinator.address, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    leaver.signal(signal.SIGTERM)
    assert leaver.end() == 130
    coordinator.process.wait_line(r"w0 lost \(terminated\): train client_0 goes to another worker")
    federation.noop_worker(coordinator.address, "w1")
    coordinator.ended_well()
