"""The handle on a trainer process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedmq.runtime import child
from fedmq.runtime.pipe import PipeClosed


def test_a_trainer_that_does_not_stop_when_told_to_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = child.TrainerProcess([sys.executable, "-c", "import signal; signal.pause()"], 1, tmp_path / "log")
    trainer.halt()
    assert not trainer.enforce_halt(wanted=True), "it has some time"
    monkeypatch.setattr(child, "HALT_GRACE_S", 0.0)
    assert not trainer.enforce_halt(wanted=False), "it has stopped"
    trainer.halt()
    assert trainer.enforce_halt(wanted=True)
    with pytest.raises(PipeClosed):
        trainer.receive()
    assert trainer.end() == "was killed by SIGKILL"


def test_one_is_started_again_though_the_folder_of_its_log_was_removed(tmp_path: Path) -> None:
    trainer = child.TrainerProcess([sys.executable, "-c", "pass"], 1, tmp_path / "removed" / "log")
    with pytest.raises(PipeClosed):
        trainer.receive()
    assert trainer.end() == "ended with exit code 0"
