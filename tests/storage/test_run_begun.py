"""The beginning of a run, interrupted anywhere: the folder is as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmq import atomic
from fedmq.errors import ConfigError
from fedmq.storage import database
from fedmq.storage.run_folder import open_run

CONFIG = json.dumps({"seed": 42})


def test_an_interrupt_at_any_step_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C is not heeded then; the first may come at any instant."""
    steps: list[int] = []

    @contextmanager
    def step() -> Iterator[None]:
        steps[0] -= 1
        if steps[0] == 0:
            raise KeyboardInterrupt
        yield

    for module in (atomic, database):
        monkeypatch.setattr(module, "durable_step", step)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for name, left in (("new", set()), ("full", {".lock", "notes.txt"})):
        folder, interrupted = tmp_path / name, 0
        while True:
            steps[:] = [interrupted + 1]
            try:
                run = open_run(folder, CONFIG, CONFIG, resume=False, overwrite=False)
            except KeyboardInterrupt:
                interrupted += 1
                assert {path.name for path in folder.rglob("*")} == left
                continue
            break
        assert interrupted >= 4
        run.journal.close()
        run.lock.release()


def test_a_refusal_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        open_run(tmp_path / "new", CONFIG, CONFIG, resume=True, overwrite=True)
    assert not (tmp_path / "new").exists()
