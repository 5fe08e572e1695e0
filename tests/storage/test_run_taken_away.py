"""A run's folder that is removed, moved or replaced under a coordinator that is at work in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmq.errors import StorageError
from fedmq.storage import run_lock
from fedmq.storage.run_folder import OpenRun, open_run
from fedmq.storage.run_lock import RunLock

CONFIG = json.dumps({"seed": 42})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[OpenRun]:
    found = open_run(tmp_path / "run", CONFIG, CONFIG, resume=False, overwrite=False)
    yield found
    found.journal.close()
    found.lock.release()


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace(folder: Path) -> None:
    shutil.rmtree(folder)
    another = open_run(folder, CONFIG, CONFIG, resume=False, overwrite=False)
    another.journal.close()
    another.lock.release()


def remove_the_journal(folder: Path) -> None:
    (folder / "run.db").unlink()


def replace_the_journal(folder: Path) -> None:
    shutil.copy(folder / "run.db", folder / "copy")
    (folder / "copy").rename(folder / "run.db")


def remove_the_lock(folder: Path) -> None:
    (folder / ".lock").unlink()


@pytest.mark.parametrize("take_away", [remove, move, replace, remove_the_journal, replace_the_journal, remove_the_lock])
def test_it_is_noticed_in_one_line(run: OpenRun, tmp_path: Path, take_away: Callable[[Path], None]) -> None:
    asked = run.watched(lambda: "the workers' own")
    assert asked() == "the workers' own" and run.watched(None)() is None
    take_away(tmp_path / "run")
    with pytest.raises(StorageError, match=r"was removed, moved or replaced while .* --resume") as caught:
        asked()
    assert "\n" not in str(caught.value)


def test_a_lock_whose_file_its_last_holder_removed_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening and the locking of the file: a lock on what has no name any more keeps nobody out."""
    RunLock(tmp_path).release()
    removed: list[str] = []

    def slow(*arguments: object) -> None:
        if not removed:
            removed.append(".lock")
            os.unlink(tmp_path / ".lock")
        flock(*arguments)  # type: ignore[arg-type]

    flock = run_lock.fcntl.flock
    monkeypatch.setattr(run_lock.fcntl, "flock", slow)
    lock = RunLock(tmp_path)
    assert removed and RunLock.held(tmp_path)
    lock.release()
