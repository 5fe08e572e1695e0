"""Checkpoints on disk: whole or not at all, and the right one found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedmq.errors import StorageError
from fedmq.storage.checkpoint import CONFIG, MERGED, WEIGHTS, checkpoint_files, checkpoint_of, write_checkpoint


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    weights, config = tmp_path / "weights", tmp_path / "config"
    weights.write_bytes(b"tensors")
    config.write_text("{}")
    return weights, config


def test_files_have_pefts_names(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    folder = tmp_path / "global_model" / "round_1"
    write_checkpoint(folder, *sources)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {WEIGHTS: b"tensors", CONFIG: b"{}"}
    assert (WEIGHTS, CONFIG) == ("adapter_model.safetensors", "adapter_config.json")


def test_weights_are_linked_not_copied(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    write_checkpoint(tmp_path / "round_1", *sources)
    assert (tmp_path / "round_1" / WEIGHTS).samefile(sources[0])
    sources[0].unlink()
    assert (tmp_path / "round_1" / WEIGHTS).read_bytes() == b"tensors", "deleting the blob leaves the checkpoint"


def test_where_links_are_not_to_be_had(
    tmp_path: Path, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(os, "link", refused)
    write_checkpoint(tmp_path / "round_1", *sources)
    assert (tmp_path / "round_1" / WEIGHTS).read_bytes() == b"tensors"


def test_an_existing_checkpoint_is_replaced(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    folder = tmp_path / "models" / "round_1"
    folder.mkdir(parents=True)
    (folder / "half").write_text("left by a crash")
    write_checkpoint(folder, *sources)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["round_1"]


def test_weights_that_are_missing_leave_nothing(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    with pytest.raises(StorageError, match="round_1 cannot be written"):
        write_checkpoint(tmp_path / "models" / "round_1", tmp_path / "nothing", sources[1])
    assert list((tmp_path / "models").iterdir()) == []


def test_a_model_that_was_not_kept_is_written_from_its_blob(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    with pytest.raises(StorageError, match="lost its global model of round 4"):
        checkpoint_of(tmp_path, 4, "ab")
    (blobs / "ab").write_bytes(b"round 4")
    (blobs / CONFIG).write_text("{}")
    assert checkpoint_files(tmp_path, 4, "ab") == (blobs / "ab", blobs / CONFIG)
    assert not (tmp_path / "global_model").exists(), "who only reads writes nothing"
    folder = checkpoint_of(tmp_path, 4, "ab")
    assert (folder.name, (folder / WEIGHTS).read_bytes()) == ("round_4", b"round 4")
    assert checkpoint_files(tmp_path, 4, "ab") == (folder / WEIGHTS, folder / CONFIG)


def test_a_model_that_was_kept_needs_no_blob(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    write_checkpoint(tmp_path / "global_model" / "round_5", *sources)
    assert (checkpoint_of(tmp_path, 5, "ab") / WEIGHTS).read_bytes() == b"tensors"


def test_what_was_merged_into_the_base_is_named(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "ab").write_bytes(b"round 4")
    (blobs / CONFIG).write_text('{"r": 8}')
    folder = checkpoint_of(tmp_path, 4, "ab", ["link_2", "link_1"])
    assert json.loads((folder / CONFIG).read_text()) == {"r": 8, MERGED: ["link_2", "link_1"]}
    assert json.loads((blobs / CONFIG).read_text()) == {"r": 8}
