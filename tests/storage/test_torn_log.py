"""run.db after a power cut that tore its write-ahead log: all that was brought to the disk, and no half commit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedmq.storage import salvage
from fedmq.storage.journal import Journal

#: Commits of one to six pages each; of each, how long the log is by then. Killed, so the log stays as it is.
_COMMITS = """
import os, sys
from pathlib import Path
from fedmq.storage.journal import Journal

path = Path(sys.argv[1])
journal = Journal.create(path, {"status": "running"})
journal.commit_round(0, "ab" * 32)
for number in range(1, 13):
    journal.put(**{f"{name}{number}": str(number) * (1500 * (number % 4) + 9) for name in "abcd"})
    print(os.stat(f"{path}-wal").st_size, flush=True)
os.kill(os.getpid(), 9)
"""
Tear = Callable[[bytes, int], bytes]
TEARS: dict[str, Tear] = {
    "cut off": lambda log, at: log[:at],
    "zeros": lambda log, at: log[:at] + bytes(len(log) - at),
    "one block of zeros": lambda log, at: log[:at] + bytes(min(512, len(log) - at)) + log[at + 512 :],
    "other bytes": lambda log, at: log[:at] + bytes(byte ^ 0xA5 for byte in log[at:]),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The folder that a killed process left, and the length of its log after each commit."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, "-c", _COMMITS, str(folder / "run.db")], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    lengths = [int(line) for line in done.stdout.split()]
    assert lengths == sorted(set(lengths)) and len(lengths) == 12
    return folder, lengths


def commits(journal: Journal) -> list[int]:
    """Those that are there, and whole."""
    there = {number: [journal.get(f"{name}{number}") for name in "abcd"] for number in range(1, 13)}
    for number, values in there.items():
        whole = str(number) * (1500 * (number % 4) + 9)
        assert values in ([whole] * 4, [None] * 4), f"half of commit {number}"
    assert journal.last_committed() == 0 and journal.is_sound()
    return [number for number, values in there.items() if values[0] is not None]


@pytest.mark.parametrize("tear", TEARS)
def test_what_was_durable_before_the_tear_is_there_and_nothing_of_what_follows(
    tmp_path: Path, killed: tuple[Path, list[int]], tear: str
) -> None:
    folder, lengths = killed
    whole = (folder / "run.db-wal").read_bytes()
    assert len(whole) == lengths[-1]
    losses = set()
    for place in sorted({place for end in lengths for place in (end - 4121, end - 4000, end - 1, end)}):
        run = tmp_path / str(place)
        shutil.copytree(folder, run)
        torn = TEARS[tear](whole, place)
        (run / "run.db-wal").write_bytes(torn)
        # What the tear made zeros may have been some before.
        first = next((at for at in range(place, len(torn)) if torn[at] != whole[at]), len(torn))
        expected = [number for number, end in enumerate(lengths, 1) if end <= first]
        losses.add(12 - len(expected))
        seen, damage = salvage.read(run / "run.db", commits)
        assert (seen, damage) == (expected, []), "as `fedmq inspect` reads it"
        with closing(Journal.open(run / "run.db")) as journal:
            assert commits(journal) == expected
            journal.put(after="the tear")
        with closing(Journal.open(run / "run.db")) as journal:
            assert (commits(journal), journal.get("after")) == (expected, "the tear")
    assert losses == set(range(13)), "the tears have happened"
