"""What a run records of the software that it is made with."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedmq.storage import software
from fedmq.storage.run_folder import open_run

HERE = Path(__file__).resolve().parent


def test_versions_and_the_commit() -> None:
    found = software.software()
    assert (found["python"], found["numpy"]) == (platform.python_version(), np.__version__)
    assert found.keys() >= {"fedmq", "torch", "transformers", "peft", "safetensors", "system", "machine"}
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True)
    if done.returncode == 0:
        assert found["commit"].removesuffix("-dirty") == done.stdout.strip()


def test_where_there_is_no_git_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "commit" not in software.software()


def test_a_run_that_goes_on_with_other_software_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(resume: bool) -> list[dict[str, str]]:
        run = open_run(tmp_path / "run", "{}", "{}", resume=resume, overwrite=False)
        entries: list[dict[str, str]] = json.loads(run.journal.require("software"))
        run.journal.close()
        run.lock.release()
        return entries

    (first,) = recorded(resume=False)
    assert recorded(resume=True) == [first], "the same is not said twice"
    monkeypatch.setattr(software, "software", lambda: {"fedmq": "9"})
    assert recorded(resume=True) == [first, {"fedmq": "9"}]
