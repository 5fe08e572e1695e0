"""What a run leaves behind, however its beginning or its end goes wrong."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import command_line, descendants, eventually, fedmq, wait_gone

from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError, RunError, StorageError
from fedmq.federated_learning import FederatedLearning
from fedmq.finished_run import FinishedRun
from fedmq.inspection import inspect_run
from fedmq.runtime import derived
from fedmq.storage.run_lock import RunLock

NEW = {"federated": {"num_clients": 1, "clients_per_round": 1, "num_rounds": 1}}


def finished_run(federation: Federation, **options: Any) -> Path:
    """The config of a run by a worker that computes nothing."""
    config = federation.config(**NEW)
    coordinator = federation.coordinator(config)
    federation.noop_worker(coordinator.address, "w0", clients=["client_0"], **options)
    coordinator.ended_well()
    return config


def python_face(federation: Federation, **options: Any) -> FederatedLearning:
    config = ExperimentConfig.load(federation.config(**NEW))
    return FederatedLearning(config, local_workers=0, **options)


@pytest.fixture
def busy_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_an_overwrite_that_fails_leaves_the_run_as_it_was(
    federation: Federation, busy_address: str, tiny_gpt2: Path
) -> None:
    config, run = finished_run(federation), federation.folder / "run"
    before, found = {path.relative_to(run) for path in run.rglob("*")}, inspect_run(run)
    overwrite = ("--overwrite", "--set", "seed=1", "--set", f"model.model_name={tiny_gpt2}")
    for words, part in (
        (("coordinator", config, "--bind", busy_address), "the port is in use"),
        (("run", config, "--workers", 1, "--set", "data.dataset_path=nowhere.csv"), "nowhere.csv: no such file"),
        (
            ("coordinator", config, "--bind", "tcp://127.0.0.1:0", "--set", "federated.start_timeout_s=0.2"),
            "1 more client",
        ),
    ):
        done = fedmq(*words, *overwrite, cwd=federation.folder)
        assert done.returncode in (1, 2) and part in done.stderr, done.stderr
        assert inspect_run(run) == found
        after = {path.relative_to(run) for path in run.rglob("*") if not path.name.startswith("run.db-")}
        assert after == {path for path in before if not path.name.startswith("run.db-")}
    coordinator = federation.coordinator(config, *overwrite)
    coordinator.process.signal(signal.SIGINT)
    assert coordinator.process.end() == 130
    assert inspect_run(run) == found, "interrupted before it had a model"


def test_sigterm_during_the_setup_leaves_nothing(
    federation: Federation, tiny_settings: Callable[..., dict[str, Any]]
) -> None:
    settings = tiny_settings()
    rows = federation.folder / "rows.csv"
    os.mkfifo(rows)  # whoever reads the data waits
    settings["data"]["dataset_path"] = str(rows)
    run = federation.fedmq("run", federation.config(**settings), "--workers", 1)
    children = eventually(
        lambda: (pids := descendants(run.pid)) and any("partition" in command_line(pid) for pid in pids) and pids,
        "the data being prepared",
    )
    run.signal(signal.SIGTERM)
    assert run.end() == 130
    assert run.lines["stderr"] == ["fedmq: interrupted by SIGTERM"]
    for pid in children:
        wait_gone(pid)
    assert not (federation.folder / "run").exists()


def test_resume_writes_what_a_kill_kept_a_finished_run_from_writing(federation: Federation) -> None:
    config, run = finished_run(federation, evaluates=True), federation.folder / "run"
    derived = [run / name for name in ("training_metrics.json", "global_metrics.json", "training_progress.png")]
    contents = [path.read_bytes() for path in derived[:2]]
    weights = (run / "global_model" / "round_final" / "adapter_model.safetensors").read_bytes()
    for path in derived:
        path.unlink()
    shutil.rmtree(run / "global_model")
    done = fedmq("coordinator", config, "--bind", "tcp://127.0.0.1:0", "--resume", cwd=federation.folder)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in derived[:2]] == contents and derived[2].is_file()
    assert (run / "global_model" / "round_final" / "adapter_model.safetensors").read_bytes() == weights


def test_workers_that_wait_for_a_finished_run_are_told(federation: Federation, free_port: int) -> None:
    """Its coordinator may have been killed after the last commit, before it could say so."""
    config, address = finished_run(federation), f"tcp://127.0.0.1:{free_port}"
    waiting = federation.noop_worker(address, "w0")
    resumed = federation.fedmq("coordinator", config, "--bind", address, "--resume")
    resumed.wait_line("this run is finished; for 5 s its workers that still wait are told so")
    assert (waiting.end(), resumed.end()) == (6, 0), waiting.output()
    assert waiting.text("stderr").endswith("the run is over: all rounds committed"), "it is a new process"
    assert "1 told" in resumed.text("stdout")


def test_ctrl_c_cuts_the_telling_short_and_the_run_stays_done(federation: Federation, free_port: int) -> None:
    config = finished_run(federation)
    resumed = federation.fedmq("coordinator", config, "--bind", f"tcp://127.0.0.1:{free_port}", "--resume")
    resumed.wait_line("this run is finished; for 5 s its workers that still wait are told so")
    resumed.signal(signal.SIGINT)
    assert resumed.end() == 0, resumed.output()
    assert "not all could be told (interrupted by SIGINT): the same command tells the others" in resumed.text("stdout")
    resumed.wait_line("^adapter SHA-256 [0-9a-f]{64}$")
    assert inspect_run(federation.folder / "run")["status"] == "done"


def test_a_finished_run_needs_no_port(federation: Federation, busy_address: str) -> None:
    config = finished_run(federation)
    done = fedmq("coordinator", config, "--bind", busy_address, "--resume", cwd=federation.folder)
    assert done.returncode == 0, done.stderr
    assert "in use" in done.stdout + done.stderr and "nothing is left to do" in done.stdout


def test_a_run_that_was_stopped_is_not_called_finished(federation: Federation) -> None:
    fed = python_face(federation)
    fed.setup()
    assert fed.address is not None
    gate = federation.gate("client_0")
    federation.noop_worker(fed.address, "w0", clients=["client_0"], gates={"client_0": str(gate.path)})

    def interrupt() -> None:
        gate.reached()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="interrupted by SIGINT; --resume goes on with round 1"):
        fed.train()
    thread.join()
    with pytest.raises(RunError, match=r"has ended \(interrupted by SIGINT.*\): make a new .*resume=True"):
        fed.train()
    assert inspect_run(fed.run_dir)["status"] == "interrupted"


def test_a_run_that_was_closed_is_not_called_finished(federation: Federation) -> None:
    fed = python_face(federation)
    fed.setup()
    fed.close()
    fed.close()
    assert not fed.run_dir.exists()
    with pytest.raises(RunError, match=r"has ended \(it was closed\)"):
        fed.train()


def test_a_run_whose_folder_is_another_s_by_now_ends_and_writes_nothing_there(federation: Federation) -> None:
    """Somebody removed it and began anew. A run without a model would else remove the new one as its own."""
    removed = [python_face(federation) for _ in range(2)]
    for fed in removed:
        fed.setup()
        shutil.rmtree(fed.run_dir)
    another = python_face(federation)
    another.setup()
    run = another.run_dir
    before = {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(StorageError, match=r"run or its run\.db was removed, moved or replaced"):
        removed[0].train()
    removed[1].close()
    assert {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert inspect_run(run)["status"] == "running"
    another.close()


def test_a_finished_run_stays_finished(federation: Federation) -> None:
    finished_run(federation)
    fed = python_face(federation, resume=True)
    fed.setup()
    assert [row["round"] for row in fed.train()] == [row["round"] for row in fed.train()] == [1]


def test_an_end_that_fails_halfway_still_lets_go_of_everything(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: object) -> None:
        raise StorageError("run: cannot be written (No space left on device)")

    fed = python_face(federation)
    fed.setup()
    assert fed.address is not None
    fed.server.journal.commit_round(0, "d0")
    port, handlers = int(fed.address.rpartition(":")[2]), logging.getLogger("fedmq").handlers
    assert len(handlers) == 1
    monkeypatch.setattr(derived, "write_derived", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        fed.close()
    assert handlers == []
    RunLock(fed.run_dir).release()
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_model_between_two_checkpoints_is_used_without_writing_into_the_run(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    kept = FinishedRun(str(run)).generate(["My order"], seed=3)
    shutil.rmtree(run / "global_model")
    before = sorted(run.rglob("*"))
    assert FinishedRun(str(run)).generate(["My order"], seed=3) == kept
    assert sorted(run.rglob("*")) == before


def test_keys_are_for_workers_that_are_started_by_hand(federation: Federation) -> None:
    fed = FederatedLearning(ExperimentConfig.load(federation.config(**NEW)), keys=federation.folder / "keys")
    with pytest.raises(ConfigError, match="local_workers=0"):
        fed.setup()
    assert not (federation.folder / "run").exists()
