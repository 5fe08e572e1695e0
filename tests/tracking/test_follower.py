"""Rounds on their way to trackers and metrics.jsonl: none missing, none twice, and no tracker in the way of a run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedmq.config import ExperimentConfig
from fedmq.doctor import surroundings
from fedmq.doctor.check import made
from fedmq.errors import ConfigError
from fedmq.federated_learning import FederatedLearning
from fedmq.storage.journal import Journal
from fedmq.tracking.backends import require
from fedmq.tracking.committed_rounds import rows
from fedmq.tracking.follower import Follower, write_lines
from fedmq.tracking.tracker import About, Tracker


class Notes:
    """A view that keeps what it is told to say."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, level: str, text: str) -> None:
        self.said.append(text)

    def progress(self, live: dict[str, Any]) -> None: ...
    def committed(self, row: dict[str, Any]) -> None: ...
    def scored(self, version: int, score: dict[str, Any] | None) -> None: ...


class Kept:
    """A tracker that keeps what it is told; it fails at `fails_at`, and waits for `gate` before it takes anything."""

    def __init__(self, fails_at: int | None = None, gate: threading.Event | None = None) -> None:
        self.rounds: list[tuple[int, Mapping[str, float]]] = []
        self.ended: tuple[bool, str] | None = None
        self.fails_at, self.gate = fails_at, gate

    def make(self, about: About) -> Tracker:
        if self.gate is not None:
            assert self.gate.wait(60)
        return Tracker(self.log, self.end)

    def log(self, step: int, at: float, scalars: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise OSError("no\nroom")
        self.rounds.append((step, scalars))

    def end(self, done: bool, digest: str) -> None:
        self.ended = (done, digest)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path / "run.db", {"run": "r", "config": "{}", "status": "running"})


def commit(journal: Journal, round: int, loss: float | None = None, bias: float | None = 0.5) -> None:
    if round:
        journal.open_round(round, [["client_0"], ["client_1"]])
        for k in (0, 1):
            journal.add_update(
                round=round, client=f"client_{k}", started=round, worker="w", digest=f"{round}{k}", num_examples=1,
                num_tokens=9, num_steps=1, train_loss=3.0 + k, train_seconds=1.0, norm=1.0, bytes_up=100, bytes_down=10,
                state_lost=0, assigned_at=None, offered_at=None,
            )  # fmt: skip
        journal.freeze_round(round, ["client_0", "client_1"])
    journal.commit_round(round, f"digest{round}")
    if round and bias is not None:
        journal.set_bias(round, bias)
    if loss is not None:
        score(journal, round, loss)


def score(journal: Journal, version: int, loss: float, unit: str = "test") -> None:
    journal.add_evaluation(
        version=version, unit=unit, worker="w", loss_sum=loss * 10, num_tokens=10, num_examples=2, seconds=1.0,
        assigned_at=None,
    )  # fmt: skip


def follower(journal: Journal, tmp_path: Path, view: Notes, **trackers: Kept) -> Follower:
    about = {name: About("r", "n", {}, tmp_path) for name in trackers}
    return Follower(view, journal, tmp_path, {name: kept.make for name, kept in trackers.items()}, about)


def test_what_a_round_says(journal: Journal, tmp_path: Path) -> None:
    commit(journal, 0, 5.0)
    commit(journal, 1, 4.0)
    journal.put(status="done")
    kept = Kept()
    follower(journal, tmp_path, Notes(), kept=kept).close()
    assert [step for step, _ in kept.rounds] == [0, 1] and kept.ended == (True, "digest1")
    assert kept.rounds[0][1] == {"global/loss": 5.0, "global/perplexity": pytest.approx(148.41, rel=1e-4)}
    said = dict(kept.rounds[1][1])
    assert said.pop("round/seconds") >= 0
    assert said == pytest.approx(
        {"global/loss": 4.0, "global/perplexity": 54.598, "bytes/up": 200, "bytes/down": 20}
        | {"round/aggregation_bias": 0.5, "train_loss/client_0": 3.0, "train_loss/client_1": 4.0}
        | {"fairness/best": 3.0, "fairness/median": 3.5, "fairness/tenth": 3.9, "fairness/worst": 4.0},
        rel=1e-4,
    )
    write_lines(tmp_path, journal)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["round"], row["digest"], row["eval_loss"]) for row in lines] == [
        (0, "digest0", 5.0),
        (1, "digest1", 4.0),
    ]
    assert lines[1]["train_loss"] == {"client_0": 3.0, "client_1": 4.0} and lines[1]["fairness"]["worst"] == 4.0


def test_where_clients_are_scored_fairness_is_of_these_scores(journal: Journal) -> None:
    commit(journal, 0)
    commit(journal, 1)
    for unit, loss in (("client_0", 1.0), ("client_1", 2.0)):
        score(journal, 1, loss, unit)
    (_, row) = rows(journal)
    assert row["train_loss"] == {"client_0": 3.0, "client_1": 4.0}
    assert (row["fairness"]["best"], row["fairness"]["worst"], row["eval_loss"]) == (1.0, 2.0, 1.5)


def test_a_round_goes_out_when_all_of_it_is_known(journal: Journal, tmp_path: Path) -> None:
    view, kept = Notes(), Kept()
    followed = follower(journal, tmp_path, view, kept=kept)

    def on_disk() -> list[int]:
        path = tmp_path / "metrics.jsonl"
        return [json.loads(line)["round"] for line in path.read_text().splitlines()] if path.exists() else []

    commit(journal, 0)
    commit(journal, 1, 4.0, bias=None)
    followed.scored(1, None)
    assert on_disk() == [], "version 0 is not scored yet"
    score(journal, 0, 5.0)
    followed.scored(0, None)
    assert on_disk() == [0], "its bias is not measured yet"
    journal.set_bias(1, 0.5)
    commit(journal, 2, None)
    commit(journal, 3, 3.0)
    followed.scored(3, None)
    assert on_disk() == [0, 1], "version 2 may still be scored"
    commit(journal, 4, 3.0)
    followed.scored(4, None)
    assert on_disk() == [0, 1, 2, 3, 4]
    followed.close()
    assert [step for step, _ in kept.rounds] == [0, 1, 2, 3, 4]
    assert kept.ended == (False, "digest4"), "it was stopped"


def test_a_round_is_appended_and_what_a_killed_process_left_is_replaced(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round": 0}\n{"rou')
    followed = follower(journal, tmp_path, Notes())
    files = set()
    for round in range(4):
        commit(journal, round, 3.0)
        followed.scored(round, None)
        assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [*range(round + 1)]
        files.add(path.stat().st_ino)
    assert len(files) == 1, "written anew with each round, a long run's takes longer than its rounds"


def test_who_fails_or_hangs_is_left_behind_with_one_warning(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmq.tracking.follower._PATIENCE_S", 0.2)
    gate = threading.Event()
    view, failing, hanging, sound = Notes(), Kept(fails_at=1), Kept(gate=gate), Kept()
    followed = follower(journal, tmp_path, view, failing=failing, hanging=hanging, sound=sound)
    for round in range(4):
        commit(journal, round, 3.0)
        followed.scored(round, None)
        followed.progress({})
    followed.close()
    gate.set()
    assert [step for step, _ in sound.rounds] == [0, 1, 2, 3] and len(failing.rounds) == 1
    assert sorted(view.said) == [
        "tracking: failing failed (OSError: no room); the run goes on without it",
        "tracking: hanging did not end within 0.2 s: what it has is not whole",
    ]
    assert [note["text"] for note in journal.notes()] == view.said


def test_lines_that_cannot_be_written_do_not_end_a_run(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    view = Notes()
    followed = follower(journal, tmp_path, view)
    for round in range(3):
        commit(journal, round, 3.0)
        followed.scored(round, None)
    followed.close()
    (said,) = view.said
    assert said.startswith("metrics.jsonl cannot be written")


@pytest.mark.parametrize("row", ["B63 a tracker whose library is not installed"])
def test_a_library_that_is_not_installed_is_refused(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"output_dir": str(tmp_path / "run"), "tracking": {"backends": ["tensorboard", "wandb"]}}
    config = ExperimentConfig.from_dict(values)
    require(config.tracking.backends)
    assert [(check.name, check.status) for check in surroundings.trackers(config)] == [("trackers", "ok")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    said = r"wandb needs wandb, which is not installed: pip install 'fedmq\[wandb\]'"
    with pytest.raises(ConfigError, match=said):
        FederatedLearning(config).setup()
    assert not (tmp_path / "run").exists()
    (check,) = made("trackers", lambda: surroundings.trackers(config))
    assert check.status == "failed" and check.exit_code == 2 and re.search(said, check.found)
