"""Atomic writes: the old content or the new one, and nothing beside it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fedmq import atomic
from fedmq.errors import StorageError


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    atomic.write_bytes(path, b"old, and longer")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def broken(fd: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_too_many_is_told_as_what_it_is(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageError) as caught, atomic.disk_failures(tmp_path):
            open(tmp_path / "file", "wb")  # noqa: SIM115
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(caught.value) == f"{tmp_path / 'file'} cannot be written (Too many open files): {atomic.REMEDY}"


def test_content_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    atomic.write_bytes(tmp_path / "file", b"new")
    assert done == ["fsync", "replace", "fsync"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "folder"
    for content in ("old", "new"):
        with atomic.replacing_folder(folder) as temp:
            (temp / content).write_text(content)
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in folder.parent.iterdir()] == ["folder"], "nothing is left beside it"


def test_a_folder_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")

    def interrupted(error: Exception) -> None:
        with atomic.replacing_folder(folder) as temp:
            (temp / "new").write_text("half")
            raise error

    with pytest.raises(StorageError, match="cannot be written"):
        interrupted(OSError(28, "No space left on device"))
    with pytest.raises(KeyError):
        interrupted(KeyError("a bug"))
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "old"]


def test_an_old_folder_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = os.replace

    def refused(source: Path, target: Path) -> None:
        if source.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(StorageError, match="cannot be written"), atomic.replacing_folder(folder) as temp:
        (temp / "new").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "old"]


def ended() -> int:
    """The id of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def test_what_a_process_that_is_gone_left_half_done_is_put_right(tmp_path: Path) -> None:
    pid = ended()
    for name in (f".folder.{pid}.old", f".folder.{pid}.tmp", f".folder.{os.getppid()}.tmp", f".other.{pid}.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)

    def interrupted() -> None:
        with atomic.replacing_folder(tmp_path / "folder"):
            raise KeyError("before it is done")

    with pytest.raises(KeyError):
        interrupted()
    assert (tmp_path / "folder" / "content").read_text() == f".folder.{pid}.old", "it died between the two renames"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"folder", f".folder.{os.getppid()}.tmp", f".other.{pid}.tmp"}, "that of a live process is its own"


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic.write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ü"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "ü"}
