"""The simulated disk: what a power cut leaves, and what a kill leaves."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from disk import Disk, intercepted

from fedmq import atomic
from fedmq.protocol.messages import Folded
from fedmq.runtime.client_states import ClientStates


def after_power_cuts(tmp_path: Path, write: object) -> set[tuple[tuple[str, bytes], ...]]:
    """What can be left of what is written into an empty folder."""
    left = set()
    for seed in range(40):
        disk = Disk(tmp_path / str(seed), lambda what: None)
        with intercepted(lambda disk=disk: disk):
            write(disk.root)  # type: ignore[operator]
        disk.restore(disk.survivors(random.Random(seed)))
        disk.close()
        left.add(tuple((path.name, path.read_bytes()) for path in sorted(disk.root.rglob("*")) if path.is_file()))
    return left


def test_an_atomic_write_is_there_after_every_power_cut(tmp_path: Path) -> None:
    assert after_power_cuts(tmp_path, lambda root: atomic.write_bytes(root / "a", b"abc")) == {(("a", b"abc"),)}


def test_a_folder_is_lost_with_all_that_is_in_it_unless_its_name_is_durable(tmp_path: Path) -> None:
    def careless(root: Path) -> None:
        (root / "deep").mkdir()
        atomic.write_bytes(root / "deep" / "a", b"abc")

    assert after_power_cuts(tmp_path / "1", careless) == {(), (("a", b"abc"),)}
    careful = after_power_cuts(tmp_path / "2", lambda root: atomic.write_bytes(root / "deep" / "a", b"abc"))
    assert careful == {(("a", b"abc"),)}


def test_folders_that_a_killed_process_had_just_made_are_made_durable_by_the_next(tmp_path: Path) -> None:
    update = Folded(1, "ab" * 32)

    def keeps(root: Path) -> None:
        (root / "deep" / "er" / "client_0").mkdir(parents=True)
        ClientStates(root / "deep" / "er").keep("client_0", update, {"error": np.ones(3, np.float32)})

    left = after_power_cuts(tmp_path, keeps)
    assert [[name for name, _ in files] for files in left] == [[f"round_1-{update.digest}.safetensors"]]


def test_what_was_not_fsynced_may_be_lost_or_torn(tmp_path: Path) -> None:
    left = after_power_cuts(tmp_path, lambda root: (root / "a").write_bytes(b"abc"))
    assert {(), (("a", b""),), (("a", b"abc"),)} < left <= {(), *((("a", b"abc"[:n]),) for n in range(4))}


def test_a_rename_whose_folder_was_not_fsynced_may_be_undone_but_is_never_half_done(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        atomic.write_bytes(root / "a", b"abc")
        os.replace(root / "a", root / "b")

    assert after_power_cuts(tmp_path, write) == {(("a", b"abc"),), (("b", b"abc"),)}


def test_a_kill_loses_what_the_process_had_not_given_to_the_system(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", lambda what: None)
    with open(disk.root / "a", "wb") as file:
        file.write(b"given")
        file.flush()
        file.write(b" and kept")
        left = disk.survivors(None)
    assert (disk.root / "a").read_bytes() == b"given and kept"
    disk.restore(left)
    disk.close()
    assert (disk.root / "a").read_bytes() == b"given"


def test_steps_are_told_of(tmp_path: Path) -> None:
    steps: list[str] = []
    disk = Disk(tmp_path / "disk", steps.append)
    with intercepted(lambda: disk):
        atomic.write_bytes(disk.root / "a", b"abc")
        atomic.write_bytes(tmp_path / "elsewhere", b"abc")
    disk.close()
    assert steps == [f"{when} {what}" for what in ("fsync", "replace", "fsync") for when in ("before", "after")]


@pytest.mark.parametrize("name", ["x", "run.db"])
def test_sqlite_looks_after_its_own_files(tmp_path: Path, name: str) -> None:
    left = after_power_cuts(tmp_path, lambda root: (root / name).write_bytes(b"abc"))
    torn = any(content != b"abc" for files in left for _, content in files)
    assert torn == (name == "x")
