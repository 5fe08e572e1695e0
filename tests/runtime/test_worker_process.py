"""A worker's default name: the same for the same host and data, another while a live worker has it. Its folders."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedmq.cli import main
from fedmq.runtime.worker_process import _free_name, default_name
from fedmq.storage.run_lock import RunLock


def test_the_name_says_host_and_data() -> None:
    assert default_name("lab1.example.org", ["a/north.csv"], ["north"]) == "lab1-north"
    assert default_name("lab1", [], []) == "lab1"
    assert default_name("lab1", ["shards/client_0"], []) == "lab1-client_0"
    hosts = ["", "...", "höst name", "x" * 300, ".hidden"]
    for host in hosts:
        for data in ([], ["./"], ["ä/ö ü.csv", "b" * 300]):
            name = default_name(host, data, [])
            assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,55}", name), name


def test_a_name_in_use_gets_a_number_and_one_that_is_free_again_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, claim = _free_name("lab1-north")
    second, other = _free_name("lab1-north")
    third, _third = _free_name("lab1-north")
    assert (first, second, third) == ("lab1-north", "lab1-north-2", "lab1-north-3")
    claim.close()
    again, claim = _free_name("lab1-north")
    assert again == "lab1-north"
    for file in (claim, other, _third):
        file.close()


@pytest.mark.parametrize("option", ["--work-dir", "--log-dir"])
@pytest.mark.parametrize("place", ["file", "file/folder", "/proc/self/fdinfo"])
def test_a_folder_that_cannot_be_is_told_with_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = CliRunner().invoke(main, ["worker", "--connect", "tcp://127.0.0.1:1", "--name", "w", option, place])
    assert done.exit_code == 1
    assert re.fullmatch(rf"fedmq: {place} cannot be made or written \(.*\): give another {option}\n", done.stderr)


def test_a_second_worker_in_the_same_folder_is_refused_and_throws_nothing_away(tmp_path: Path) -> None:
    """Two of one key, say, started from the same folder."""
    first = RunLock(tmp_path / "w", "worker", "--work-dir")
    made = tmp_path / "w" / "outbox" / "train-1-client_0-0.made"
    made.parent.mkdir()
    made.touch()
    options = ("--connect", "tcp://127.0.0.1:1", "--name", "w", "--work-dir", str(tmp_path / "w"))
    done = CliRunner().invoke(main, ["worker", *options])
    first.release()
    assert (done.exit_code, made.exists()) == (1, True)
    assert "w is in use by another worker: wait for it or end it, or give another --work-dir" in done.stderr
