"""run.db: what is written is there after a crash, and only one process writes."""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from failing_disk import NUMBERS

from fedmq.errors import StorageError
from fedmq.storage.journal import Journal
from fedmq.storage.run_lock import RunLock
from fedmq.storage.schema import SCHEMA_VERSION

TESTS = Path(__file__).resolve().parents[1]
UPDATE: dict[str, Any] = {
    "round": 1,
    "client": "client_1",
    "worker": "w",
    "digest": "ab" * 32,
    "started": 1,
    "num_examples": 8,
    "num_tokens": 200,
    "num_steps": 3,
    "train_loss": 2.5,
    "train_seconds": 1.25,
    "norm": 14.5,
    "bytes_up": 100,
    "bytes_down": 50,
    "state_lost": False,
    "assigned_at": 1.5,
    "offered_at": None,
}
EVALUATION: dict[str, Any] = {
    "version": 1,
    "unit": "test",
    "worker": "w",
    "loss_sum": 30.0,
    "num_tokens": 10,
    "num_examples": 2,
    "seconds": 0.5,
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.create(tmp_path / "run.db", {"run": "r"})
    yield journal
    journal.close()


def test_meta(journal: Journal) -> None:
    assert (journal.get("run"), journal.get("nothing")) == ("r", None)
    journal.put(run="other", status="done")
    assert (journal.require("run"), journal.require("status")) == ("other", "done")
    with pytest.raises(StorageError, match="holds no secret"):
        journal.require("secret")


def test_the_life_of_a_round(journal: Journal) -> None:
    journal.commit_round(0, "d0")
    journal.open_round(1, [["client_2"], ["client_1"]])
    assert [row["state"] for row in journal.rounds()] == ["committed", "open"]
    assert journal.last_committed() == 0
    journal.add_update(**UPDATE)
    journal.freeze_round(1, ["client_1"])
    journal.commit_round(1, "d1")
    row = journal.rounds(first=1)[0]
    assert (row["state"], row["selected"], row["frozen"]) == ("committed", ["client_1", "client_2"], ["client_1"])
    assert row["groups"] == [["client_2"], ["client_1"]]
    assert (journal.last_committed(), journal.digest(0), journal.digest(1)) == (1, "d0", "d1")
    assert row["committed_at"] >= row["opened_at"]


def test_a_frozen_set_is_fixed_for_ever(journal: Journal) -> None:
    journal.open_round(1, [["client_1"], ["client_2"]])
    journal.freeze_round(1, ["client_1"])
    journal.freeze_round(1, ["client_1", "client_2"])
    assert journal.rounds()[0]["frozen"] == ["client_1"]
    journal.commit_round(1, "d1")
    journal.freeze_round(1, [])
    assert (journal.rounds()[0]["state"], journal.rounds()[0]["frozen"]) == ("committed", ["client_1"])


def test_a_round_is_opened_once(journal: Journal) -> None:
    journal.open_round(1, [["client_1"]])
    with pytest.raises(sqlite3.IntegrityError):
        journal.open_round(1, [["client_2"]])


def test_an_update_counts_once_for_its_round_and_client(journal: Journal) -> None:
    journal.open_round(1, [["client_1"]])
    journal.add_update(**UPDATE)
    with pytest.raises(sqlite3.IntegrityError):
        journal.add_update(**UPDATE | {"digest": "cd" * 32, "worker": "other"})
    (row,) = journal.updates()
    assert row == UPDATE | {"received_at": row["received_at"]}
    assert journal.updates(2) == []


def test_an_update_of_no_round_is_refused(journal: Journal) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        journal.add_update(**UPDATE)


def test_updates_come_by_round_and_client(journal: Journal) -> None:
    for round in (2, 1):
        journal.open_round(round, [])
        for client in ("client_2", "client_10", "client_1"):
            journal.add_update(**UPDATE | {"round": round, "started": round, "client": client})
    names = [(row["round"], row["client"]) for row in journal.updates()]
    assert names == sorted(names)


def test_an_evaluation_done_again_replaces_the_first(journal: Journal) -> None:
    journal.add_evaluation(**EVALUATION)
    journal.add_evaluation(**EVALUATION | {"loss_sum": 31.0})
    assert [row["loss_sum"] for row in journal.evaluations()] == [31.0]
    assert journal.evaluations(first=2) == []


def test_generations_all_or_none(journal: Journal) -> None:
    journal.add_generations(1, ["a", "b"], ["a x", "b y"])
    with pytest.raises(ValueError, match="shorter"):
        journal.add_generations(2, ["a", "b"], ["a x"])
    assert [(row["version"], row["position"], row["text"]) for row in journal.generations()] == [
        (1, 0, "a x"),
        (1, 1, "b y"),
    ]


def test_several_values_all_or_none(journal: Journal) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        journal.put(status="done", reason=None)  # type: ignore[arg-type]
    assert journal.get("status") is None


def test_notes_in_their_order(journal: Journal) -> None:
    journal.add_note("info", "first")
    journal.add_note("warning", "second")
    assert [(row["level"], row["text"]) for row in journal.notes()] == [("info", "first"), ("warning", "second")]


def test_every_write_is_there_for_a_reader_at_once_and_without_a_close(journal: Journal) -> None:
    journal.open_round(1, [["client_1"]])
    journal.add_update(**UPDATE)
    reader = Journal.open(journal.path, read_only=True)
    assert reader.updates() == journal.updates() != []
    with pytest.raises(StorageError, match="readonly"):
        reader.put(status="done")
    reader.close()


def test_power_cuts_are_provided_for(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
    assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


# --- files that are no journal ---------------------------------------------------------------------


def refusal(path: Path, read_only: bool = False) -> str:
    with pytest.raises(StorageError) as caught:
        Journal.open(path, read_only)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    assert "not a run's folder" in refusal(tmp_path / "run.db")


@pytest.mark.parametrize("read_only", [False, True])
def test_another_file(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "run.db").write_bytes(b"no database, but long enough to look like one" * 100)
    assert "cannot be read" in refusal(tmp_path / "run.db", read_only)


@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_a_truncated_file(journal: Journal, keep: float) -> None:
    for k in range(20):
        journal.add_note("info", f"note {k} " * 200)
    journal.close()
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[: int(len(content) * keep)])
    text = refusal(journal.path)
    assert "restore it from a copy, or start anew" in text


def test_overwritten_pages(journal: Journal) -> None:
    for k in range(20):
        journal.add_note("info", f"note {k} " * 200)
    journal.close()
    content = bytearray(journal.path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    journal.path.write_bytes(content)
    assert "restore it from a copy" in refusal(journal.path)


def test_a_newer_format(journal: Journal) -> None:
    journal.close()
    database = sqlite3.connect(journal.path)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    text = refusal(journal.path)
    assert f"format {SCHEMA_VERSION + 1}" in text and f"reads {SCHEMA_VERSION}" in text


def test_another_sqlite_file(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "run.db")
    database.execute("CREATE TABLE cookies (name TEXT)")
    database.close()
    assert "format 0" in refusal(tmp_path / "run.db")


_READ_BY_NOBODY = """
import os, sys
from pathlib import Path
from fedmq.storage.journal import Journal
if os.getuid() == 0:
    os.setuid(65534)  # to root, no folder is read-only
folder = Path(sys.argv[1])
assert not os.access(folder, os.W_OK)
journal = Journal.open(folder / "run.db", read_only=True)
print(journal.require("status"))
"""


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_run_in_a_folder_that_nobody_may_write_is_read(seen_before: bool) -> None:
    # Not tmp_path: only its owner may enter that.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Journal.create(folder / "run.db", {"status": "done"}).close()
        if seen_before:
            # A reader that may write leaves an empty log behind.
            journal = Journal.open(folder / "run.db", read_only=True)
            journal.require("status")
            journal.close()
        before = sorted(path.name for path in folder.iterdir())
        folder.chmod(0o555)
        try:
            done = subprocess.run([sys.executable, "-c", _READ_BY_NOBODY, name], capture_output=True, text=True)
        finally:
            folder.chmod(0o755)
        assert (done.stdout, done.stderr) == ("done\n", "")
        assert sorted(path.name for path in folder.iterdir()) == before


def test_a_lock_waits_out_somebody_who_only_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunLock(tmp_path).release()
    asking = open(tmp_path / ".lock")  # noqa: SIM115 - closed while the lock waits
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda pause_s: asking.close())
    lock = RunLock(tmp_path)
    assert asking.closed and RunLock.held(tmp_path)
    lock.release()
    assert not RunLock.held(tmp_path)


FAILING_COMMIT = """
from pathlib import Path
from failing_disk import opened, refuse
from fedmq.errors import StorageError
from fedmq.storage.journal import Journal

journal = Journal.open(Path(sys.argv[1]))
journal.put(before="1")
print(os.stat(sys.argv[1] + "-wal").st_size, flush=True)
refuse(["fsync", "fdatasync"], opened("run.db-wal"))
try:
    journal.put(failed="2")
except StorageError as error:
    assert "disk I/O error" in str(error), error
    os._exit(137)
"""
KILLED_AFTER_A_COMMIT = """
from pathlib import Path
from fedmq.storage.journal import Journal

Journal.open(Path(sys.argv[1])).put(after="3")
os._exit(137)
"""


needs_seccomp = pytest.mark.skipif(not NUMBERS, reason="this processor's system calls have other numbers")


def run(script: str, path: Path) -> str:
    """In a process of its own, on a run.db; it must end as one that is killed."""
    command = [sys.executable, "-c", f"import os, sys; sys.path.insert(0, {str(TESTS)!r})\n{script}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 137, done.stderr
    return done.stdout


@needs_seccomp
def test_what_a_failed_fsync_left_in_the_log_endangers_nothing_that_follows(tmp_path: Path) -> None:
    """The kernel's memory has it, the disk has not; a log is read up to its first gap."""
    path, log = tmp_path / "run.db", tmp_path / "run.db-wal"
    Journal.create(path, {}).close()
    synced = int(run(FAILING_COMMIT, path))
    left = log.read_bytes()[synced:]
    assert left
    run(KILLED_AFTER_A_COMMIT, path)
    # The power is cut: what was never brought to the disk, and never written again, is lost.
    content = bytearray(log.read_bytes())
    if content[synced:].startswith(left):
        content[synced : synced + len(left)] = bytes(len(left))
        log.write_bytes(content)
    with closing(Journal.open(path)) as journal:
        assert (journal.get("before"), journal.get("after")) == ("1", "3")


OPENED_ON_A_BAD_DISK = """
from pathlib import Path
from failing_disk import refuse
from fedmq.errors import StorageError
from fedmq.storage.journal import Journal

refuse(["fsync", "fdatasync"])
try:
    Journal.open(Path(sys.argv[1]))
except StorageError as error:
    print(error, flush=True)
    os._exit(137)
"""


@needs_seccomp
def test_a_log_that_cannot_be_begun_anew_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Journal.create(path, {}).close()
    run(KILLED_AFTER_A_COMMIT, path)
    assert f"{path} cannot be written (disk I/O error): put that right" in run(OPENED_ON_A_BAD_DISK, path)
    with closing(Journal.open(path)) as journal:
        assert journal.get("after") == "3"
