"""The coordinator's log is no part of the run: what cannot be logged ends nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedmq.errors import StorageError
from fedmq.runtime import run_log


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "coordinator.log"
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    handler = run_log.start(path)
    for k in range(3):
        logging.getLogger("fedmq.coordinator").warning("line %d", k)
    run_log.stop(handler)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path} cannot be written (No space left on device): the run goes on")


def test_a_bug_of_ours_in_what_is_logged_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = run_log.start(tmp_path / "coordinator.log")
    logging.getLogger("fedmq.coordinator").warning("%d", "no number")
    run_log.stop(handler)
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/coordinator.log", "file/folder/coordinator.log", "folder"])
def test_a_place_that_cannot_be_is_told_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot be made or written \(.*\): give another log_dir") as caught:
        run_log.start(tmp_path / place)
    assert "\n" not in str(caught.value)
