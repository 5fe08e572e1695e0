"""Atomic writes: the old content or the new one, and nothing beside it."""

from __future__ import annotations

import json
import os
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


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic.write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ü"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "ü"}
