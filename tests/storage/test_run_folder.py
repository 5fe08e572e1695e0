"""OUTPUT_DIR: made, resumed, replaced, or refused with the way on."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmq.errors import ConfigError, FedmqError, StorageError
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import OpenRun, discard, open_run, settle
from fedmq.storage.run_lock import RunLock

CONFIG = json.dumps({"seed": 42, "device": "cpu", "lora": {"r": 8}})
OTHER = json.dumps({"seed": 43, "device": "cuda", "lora": {"r": 8}})
Open = Callable[..., OpenRun]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """`open_run` on one folder; what it opened is closed at the end, also after it was refused in between."""
    runs: list[OpenRun] = []

    def opening(config: str = CONFIG, resume: bool = False, overwrite: bool = False) -> OpenRun:
        runs.append(open_run(tmp_path / "out", config, decisive(config), resume=resume, overwrite=overwrite))
        return runs[-1]

    yield opening
    for run in runs:
        close(run)


def decisive(config: str) -> str:
    """All but the device."""
    return json.dumps({key: value for key, value in json.loads(config).items() if key != "device"}, sort_keys=True)


def close(run: OpenRun) -> None:
    run.journal.close()
    run.lock.release()


def refusal(opening: Open, error: type[FedmqError] = ConfigError, **arguments: object) -> str:
    with pytest.raises(error) as caught:
        opening(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_run(tmp_path: Path, opened: Open) -> None:
    run = opened()
    assert (run.finished, run.created) == (False, True)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(CONFIG)
    assert (run.journal.require("status"), run.journal.require("epoch")) == ("running", "0")
    assert len(run.journal.require("run")) == len(run.journal.require("secret")) == 32


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_of_a_run_that_ended_the_database_alone_is_all(tmp_path: Path, opened: Open, status: str) -> None:
    run = opened()
    run.journal.put(status=status, reason="this is in the log only")
    run.let_go()
    shutil.copy(tmp_path / "out" / "run.db", tmp_path / "run.db")
    copied = Journal.open(tmp_path / "run.db", read_only=True)
    assert (copied.get("status"), copied.get("reason")) == (status, "this is in the log only")
    copied.close()


def test_two_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [open_run(tmp_path / name, CONFIG, decisive(CONFIG), resume=False, overwrite=False) for name in "ab"]
    assert (
        len({run.journal.require("run") for run in runs}) == len({run.journal.require("secret") for run in runs}) == 2
    )
    for run in runs:
        close(run)


def test_resume_with_nothing_to_resume_starts(opened: Open) -> None:
    assert opened(resume=True).created


def test_resume_goes_on_as_the_same_run(opened: Open) -> None:
    first = opened()
    run, secret = first.journal.require("run"), first.journal.require("secret")
    first.journal.commit_round(0, "d0")
    close(first)
    for epoch in ("1", "2"):
        again = opened(resume=True)
        assert (again.finished, again.created) == (False, False)
        assert (again.journal.require("run"), again.journal.require("secret")) == (run, secret)
        assert (again.journal.require("epoch"), again.journal.last_committed()) == (epoch, 0)
        close(again)


def test_an_unfinished_run_is_neither_continued_nor_removed_unasked(opened: Open) -> None:
    close(opened())
    text = refusal(opened)
    assert "an unfinished run" in text and "--resume" in text and "--overwrite" in text


def test_a_finished_run_is_kept(opened: Open) -> None:
    run = opened()
    run.journal.put(status="done")
    close(run)
    assert "a finished run" in refusal(opened)
    again = opened(resume=True)
    assert again.finished and again.journal.require("epoch") == "0", "there is nothing left to do"


def test_another_config_is_refused_by_the_settings_that_differ(opened: Open) -> None:
    close(opened())
    for resume in (False, True):
        text = refusal(opened, config=OTHER, resume=resume)
        assert "(other: seed)" in text, "the device does not decide the result"
        assert "--overwrite" in text
    assert opened(resume=True).journal.require("config") == CONFIG, "the refused config left no trace"


def test_overwrite_removes_only_what_a_run_made(tmp_path: Path, opened: Open) -> None:
    out = tmp_path / "out"
    close(opened())
    own = ["blobs/x", "global_model/round_1/w", "client_3/round_1/w", "workers/w0/o", "training_metrics.json"]
    kept = ["data/shard", "notes.txt", "client_list/names.csv", "client_9.txt", "plots/a.png"]
    for name in own + kept:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    run = opened(config=OTHER, overwrite=True)
    assert run.created and run.journal.require("config") == OTHER
    run.journal.commit_round(0, "d0")
    settle(out)
    assert not (out / ".overwritten").exists()
    assert [name for name in own if (out / name).exists()] == []
    assert [name for name in kept if not (out / name).exists()] == []


@pytest.fixture
def old_run(tmp_path: Path, opened: Open) -> dict[str, str]:
    """The files of a run with a model: names and contents."""
    run = opened()
    run.journal.commit_round(0, "d0")
    run.journal.put(status="done")
    close(run)
    out = tmp_path / "out"
    for name in ("blobs/d0", "global_model/round_0/w", "client_3/round_1/w", "data/partition.json", "notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("old")
    return files(out)


def files(folder: Path) -> dict[str, str]:
    """Every file, with what it holds; of run.db, the run's name."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    contents = {name: path.read_bytes().hex() for name, path in found.items() if not name.startswith("run.db")}
    database = sqlite3.connect(folder / "run.db")
    (contents["run"],) = database.execute("SELECT value FROM meta WHERE key = 'run'").fetchone()
    database.close()
    return contents


def leave_traces(out: Path) -> None:
    """As a run does before its first adapter: other shards, a blob half there."""
    for name in ("blobs/d9.part", "workers/w0/o", "data/partition.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).unlink(missing_ok=True)
        (out / name).write_text("new")


def test_an_overwritten_run_is_back_when_the_new_one_came_to_nothing(
    tmp_path: Path, opened: Open, old_run: dict[str, str]
) -> None:
    out = tmp_path / "out"
    run = opened(config=OTHER, overwrite=True)
    leave_traces(out)
    discard(run, out)
    run.lock.release()
    assert files(out) == old_run
    again = opened(resume=True)
    assert again.finished


@pytest.mark.parametrize("resume", [False, True])
def test_an_overwrite_that_was_killed_before_it_had_a_model_never_was(
    tmp_path: Path, opened: Open, old_run: dict[str, str], resume: bool
) -> None:
    out = tmp_path / "out"
    close(opened(config=OTHER, overwrite=True))
    leave_traces(out)
    assert "holds a run of another config" in refusal(opened, config=OTHER, resume=resume)
    assert files(out) == old_run


def test_an_overwrite_that_was_killed_later_stands(tmp_path: Path, opened: Open, old_run: dict[str, str]) -> None:
    run = opened(config=OTHER, overwrite=True)
    run.journal.commit_round(0, "d1")
    close(run)
    assert opened(config=OTHER, resume=True).journal.digest(0) == "d1"
    assert not (tmp_path / "out" / ".overwritten").exists()
    assert not (tmp_path / "out" / "blobs").exists()


def test_an_overwrite_that_dies_at_any_step_loses_nothing(
    tmp_path: Path, opened: Open, old_run: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting aside and bringing back are cut short at every second file operation, then settled by the next start."""
    out, operations = tmp_path / "out", ("rename", "link", "unlink", "rmdir")
    real = {name: getattr(os, name) for name in operations}
    for steps in range(1, 200, 2):
        left, run = [steps], None

        def counted(name: str, left: list[int] = left) -> Callable[..., None]:
            def operate(*arguments: object, **keywords: object) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise SystemExit("killed")
                real[name](*arguments, **keywords)

            return operate

        with monkeypatch.context() as patch:
            for name in operations:
                patch.setattr(os, name, counted(name))
            try:
                run = opened(config=OTHER, overwrite=True)
                leave_traces(out)
                discard(run, out)
            except SystemExit:
                pass
        if run is not None:
            close(run)
        close(opened(resume=True))
        assert files(out) == old_run, steps
        if left[0] >= 0:
            return
    raise AssertionError("it never came to its end")


def test_overwrite_of_nothing_starts(opened: Open) -> None:
    assert opened(overwrite=True).created


def test_resume_and_overwrite_contradict(opened: Open) -> None:
    assert "give one of them" in refusal(opened, resume=True, overwrite=True)


def test_a_foreign_config_json_is_not_overwritten_unasked(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    assert "holds a config.json, but no run" in refusal(opened)
    assert (tmp_path / "out" / "config.json").read_text() == "mine"


def test_an_edited_config_json_is_put_right(tmp_path: Path, opened: Open) -> None:
    close(opened())
    (tmp_path / "out" / "config.json").write_text("{}")
    opened(resume=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(CONFIG)


def test_a_run_that_came_to_nothing_is_discarded(tmp_path: Path) -> None:
    run = open_run(tmp_path / "out", CONFIG, decisive(CONFIG), resume=False, overwrite=False)
    discard(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_damaged_journal(tmp_path: Path, opened: Open, resume: bool) -> None:
    close(opened())
    (tmp_path / "out" / "run.db").write_bytes(b"rubbish" * 1000)
    assert "cannot be read" in refusal(opened, StorageError, resume=resume)
    assert opened(overwrite=True).created, "--overwrite is a way out"


def test_a_newer_format_is_refused(tmp_path: Path, opened: Open) -> None:
    close(opened())
    database = sqlite3.connect(tmp_path / "out" / "run.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    assert "format 99" in refusal(opened, StorageError, resume=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="give another output_dir"):
        open_run(tmp_path / "file" / "out", CONFIG, decisive(CONFIG), resume=False, overwrite=False)


# --- one writer ------------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from fedmq.storage.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_coordinator_is_locked_out_until_the_first_is_gone(tmp_path: Path, opened: Open) -> None:
    close(opened())
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for arguments in ({"resume": True}, {"overwrite": True}, {}):
            assert "in use by another coordinator" in refusal(opened, StorageError, **arguments)
        reader = Journal.open(tmp_path / "out" / "run.db", read_only=True)
        assert reader.get("status") == "running", "readers are let in"
        reader.close()
        holder.kill()
        holder.wait()
    assert not opened(resume=True).created, "a killed process holds no lock"


def test_a_refused_run_lets_go_of_the_folder(tmp_path: Path, opened: Open) -> None:
    close(opened())
    refusal(opened)
    RunLock(tmp_path / "out").release()
