"""Local workers: which device each sees, how many there are, and a child that ends with its parent."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from fedmq.errors import ConfigError
from fedmq.runtime.local import LocalWorkers, cuda_devices, default_workers, num_cores, num_cuda_devices, run_child


def workers(folder: Path, count: int, device: str) -> LocalWorkers:
    return LocalWorkers("tcp://127.0.0.1:1", count, folder / "workers", folder / "logs", device, None, None)


def said(folder: Path, k: int) -> list[str]:
    return (folder / "logs" / f"worker_{k}.log").read_text().split()


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the interpreter: a program that tells what it was started with, and ends as a bad config does."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "visible=${CUDA_VISIBLE_DEVICES-unset}" "$@"\nexit 2\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    return tmp_path


def run_to_end(group: LocalWorkers) -> None:
    group.start()
    for slot in group._slots:
        assert slot.process is not None
        slot.process.wait(60)
    group.stop()


def test_each_worker_sees_one_of_the_devices(telling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5ab")
    run_to_end(workers(telling, 3, "cuda"))
    for k, device in enumerate(["3", "GPU-5ab", "3"]):
        words = said(telling, k)
        assert words[0] == f"visible={device}"
        # Where torch finds none of them, "cuda" is the CPU and "cuda:0" would be an error.
        assert words[words.index("--device") + 1] == "cuda"


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_named_device_is_passed_on(telling: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    run_to_end(workers(telling, 1, device))
    words = said(telling, 0)
    assert (words[0], words[words.index("--device") + 1]) == ("visible=0,1", device)


def test_a_worker_trains_on_the_cpu_where_torch_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fedmq.learning.devices import resolve_device

    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert num_cuda_devices() == 2
    device, note = resolve_device("cuda")
    assert device == "cpu" and note is not None and "training on the CPU" in note


def test_devices_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, devices in [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-a", ["GPU-a"])]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert cuda_devices() == devices


def test_how_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [default_workers("cuda", n) for n in (1, 2, 9)] == [1, 2, 2]
    assert default_workers("cuda:1", 9) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_workers("cuda", 10_000) == default_workers("cpu", 10_000) == num_cores()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_only_the_cores_that_are_ours_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert num_cores() == len(before)


def test_logs_that_somebody_removes_end_no_run(telling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = telling / "python"
    program.write_text(program.read_text().replace("exit 2", "exit 1"))
    group = workers(telling, 1, "cpu")
    group.start()
    reasons = []
    for _ in range(4):
        (process,) = [slot.process for slot in group._slots]
        assert process is not None
        process.wait(60)
        shutil.rmtree(telling / "logs")
        reasons.append(group.failure())
    assert reasons[:3] == [None] * 3, "it was started again"
    assert reasons[3] == f"worker_0 ended with exit code 1: {telling / 'logs' / 'worker_0.log'}, its log, was removed"


def test_a_child_that_fails_ends_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        run_child(["data", "partition", str(tmp_path / "nowhere.json"), "--out", str(tmp_path / "out")])
