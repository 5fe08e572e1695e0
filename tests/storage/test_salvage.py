"""Damaged and half copied runs: what can be read is, and what is missing is said."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from made_runs import make_run

from fedmq.errors import StorageError
from fedmq.inspection import inspect_run, inspection_lines
from fedmq.report.run_page import _baselines
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import write_metrics
from fedmq.storage.salvage import open_to_read, read

ROUNDS = 30
FROM_METRICS = "what is missing of rounds and scores is from training_metrics.json and global_metrics.json"
PAGE = 4096


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run.db of many pages."""
    folder = tmp_path_factory.mktemp("sound")
    config = {"experiment_name": "x", "federated": {"num_rounds": ROUNDS}}
    journal = Journal.create(folder / "run.db", {"config": json.dumps(config), "status": "done", "decisive": "{}"})
    journal._db.execute("PRAGMA synchronous=OFF")
    journal.commit_round(0, "00" * 32)
    clients = [f"client_{i}" for i in range(20)]
    for round in range(1, ROUNDS + 1):
        journal.open_round(round, [clients])
        for client in clients:
            same = {"round": round, "client": client, "started": round, "worker": "w", "digest": "ab" * 32}
            counts = dict.fromkeys(("num_examples", "num_tokens", "num_steps", "bytes_up", "bytes_down"), 7)
            journal.add_update(**same, **counts, train_loss=2.0, train_seconds=1.0, norm=1.0, state_lost=False)
        journal.freeze_round(round, clients)
        journal.commit_round(round, "01" * 32)
        same = {"version": round, "unit": "test", "worker": "w", "num_tokens": 10, "num_examples": 2}
        journal.add_evaluation(**same, loss_sum=30.0, seconds=0.5)
    journal.close()
    return (folder / "run.db").read_bytes()


def test_a_sound_one_is_opened_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.db").write_bytes(content)
    journal, lines = open_to_read(tmp_path / "run.db")
    assert lines == [] and len(journal.updates()) == 20 * ROUNDS
    journal.close()


def middle(content: bytes) -> bytes:
    at = len(content) // 2 // PAGE * PAGE
    return content[:at] + b"\xff" * 3 * PAGE + content[at + 3 * PAGE :]


@pytest.mark.parametrize(
    "harm",
    [middle, lambda content: content[: len(content) // 2], lambda content: content[:-PAGE]],
    ids=["pages overwritten", "half copied", "the last page is missing"],
)
def test_of_a_damaged_one_the_rest_is_read(tmp_path: Path, content: bytes, harm: Callable[[bytes], bytes]) -> None:
    (tmp_path / "run.db").write_bytes(harm(content))
    (tmp_path / "config.json").write_text(json.dumps({"experiment_name": "x", "federated": {"num_rounds": ROUNDS}}))
    found = inspect_run(tmp_path)
    updates = sum(len(row["client_metrics"]) for row in found["rounds"])
    assert 0 < updates < 20 * ROUNDS, "some of it, and not all"
    assert found["damage"][0].startswith("run.db is damaged")
    assert any(line.startswith(("updates: ", "rounds: ", "evaluations: ")) for line in found["damage"])
    assert next(iter(inspection_lines(found))) == f"damaged: {found['damage'][0]}"
    assert (tmp_path / "run.db").read_bytes() == harm(content), "it is looked at, not repaired"


@pytest.mark.parametrize("left", [None, b"", b"no database" * 1000], ids=["none", "empty", "something else"])
def test_without_a_database_the_derived_files_are_read(tmp_path: Path, content: bytes, left: bytes | None) -> None:
    (tmp_path / "run.db").write_bytes(content)
    before = inspect_run(tmp_path)
    journal = Journal.open(tmp_path / "run.db", read_only=True)
    write_metrics(tmp_path, journal)
    journal.close()
    (tmp_path / "run.db").unlink()
    if left is not None:
        (tmp_path / "run.db").write_bytes(left)
    after = inspect_run(tmp_path)
    assert after["damage"][-1] == FROM_METRICS
    assert after["scores"] == before["scores"] and after["committed"] == before["committed"]
    for kept, was in zip(after["rounds"], before["rounds"], strict=True):
        assert kept == was | {"seconds": pytest.approx(was["seconds"])}
    assert after["status"] == "unknown"


def test_rows_that_cannot_be_read_are_those_of_the_derived_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.db").write_bytes(content)
    before = inspect_run(tmp_path)
    journal = Journal.open(tmp_path / "run.db", read_only=True)
    write_metrics(tmp_path, journal)
    journal.close()
    with closing(sqlite3.connect(tmp_path / "run.db")) as database, database:
        database.execute("UPDATE evaluations SET num_tokens = 0 WHERE version > 20")
        database.execute("UPDATE updates SET worker = x'ff' WHERE round > 20")
    after = inspect_run(tmp_path)
    assert after["damage"][-1] == FROM_METRICS and len(after["damage"]) == 4
    assert (after["scores"], after["rounds"]) == (before["scores"], before["rounds"])
    assert after["timeline"] == before["timeline"]


@pytest.mark.parametrize("left", [b"", b"no database", b"SQLite format 3\0"])
def test_nothing_can_be_read(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "run.db").write_bytes(left)
    with pytest.raises(StorageError, match="nothing of its run can be read: copy the folder again"):
        inspect_run(tmp_path)


def test_another_version_is_not_taken_for_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.db").write_bytes(content[:60] + (9999).to_bytes(4) + content[64:])
    with pytest.raises(StorageError, match="has format 9999, this fedmq reads"):
        open_to_read(tmp_path / "run.db")
    (tmp_path / "run.db").unlink()
    with pytest.raises(StorageError, match="not a run's folder"):
        open_to_read(tmp_path / "run.db")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rounds SET frozen = '[\"client' WHERE round = 7", "rounds: 30 rows could be read, the others not"),
        ("rounds SET committed_at = NULL WHERE round = 7", "rounds: 30 rows could be read, the others not"),
        ("rounds SET groups = '[1]' WHERE round = 7", "rounds: 30 rows could be read, the others not"),
        ("rounds SET digest = CAST(x'ff' AS TEXT) WHERE round = 7", "rounds: 30 rows could be read, the others not"),
        ("updates SET bytes_up = 'x' WHERE round = 7", "updates: 580 rows could be read, the others not"),
        ("evaluations SET num_tokens = 0 WHERE version = 7", "evaluations: 29 rows could be read, the others not"),
        ("meta SET value = '[1' WHERE key = 'decisive'", "meta: 2 rows could be read, the others not"),
        ("meta SET value = '{}' WHERE key = 'config'", "the config is that of config.json"),
    ],
)
def test_rows_that_make_no_sense_are_left_out(tmp_path: Path, content: bytes, change: str, said: str) -> None:
    (tmp_path / "run.db").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({"experiment_name": "x", "federated": {"num_rounds": ROUNDS}}))
    with closing(sqlite3.connect(tmp_path / "run.db")) as database, database:
        database.execute(f"UPDATE {change}")
    found = inspect_run(tmp_path)
    assert said in found["damage"] and found["committed"] == ROUNDS and len(found["scores"]) >= ROUNDS - 1
    assert list(inspection_lines(found))


def test_what_is_read_of_a_run_that_goes_on_is_of_one_moment(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.db").write_bytes(content)
    writer = Journal.open(tmp_path / "run.db")

    def committed(journal: Journal) -> tuple[int | None, int]:
        before = journal.last_committed()
        writer.commit_round(ROUNDS + 1, "02" * 32)
        return before, journal.rounds()[-1]["round"]

    assert read(tmp_path / "run.db", committed) == ((ROUNDS, ROUNDS), [])
    assert writer.last_committed() == ROUNDS + 1
    writer.close()


def test_an_error_of_who_reads_is_no_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.db").write_bytes(content)

    def wrong(journal: Journal) -> None:
        raise KeyError("of ours")

    with pytest.raises(KeyError, match="of ours"):
        read(tmp_path / "run.db", wrong)


def test_a_damaged_baseline_leaves_its_run_alone(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path / "run")
    (run / "baselines" / "central").mkdir(parents=True)
    (run / "baselines" / "central" / "run.db").write_bytes(middle(content))
    found = inspect_run(run)
    assert found["damage"] == [] and "is damaged" in found["baselines"]["central"]["reason"]
    (_, row) = _baselines(found, {"central": inspect_run(run / "baselines" / "central")}).rows
    assert "run.db is damaged" in row[-1]
