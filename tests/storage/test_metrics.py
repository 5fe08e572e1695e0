"""Metrics derived from the journal, against sums by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmq.storage.hosted import Hosted
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import coverage, global_metrics, perplexity, round_metrics, training_metrics, write_metrics


def evaluation(version: int, unit: str, loss_sum: float, num_tokens: int) -> dict[str, Any]:
    return {
        "version": version,
        "unit": unit,
        "worker": "w",
        "loss_sum": loss_sum,
        "num_tokens": num_tokens,
        "num_examples": 2,
        "seconds": 0.5,
    }


def update(round: int, client: str, loss: float) -> dict[str, Any]:
    return {
        "round": round,
        "client": client,
        "started": round,
        "worker": "w7",
        "digest": "ab" * 32,
        "num_examples": 8,
        "num_tokens": 200,
        "num_steps": 3,
        "train_loss": loss,
        "train_seconds": 1.5,
        "norm": 14.5,
        "bytes_up": 100,
        "bytes_down": 50,
        "state_lost": False,
    }


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Round 0 and 1 are committed, 2 is open; client_2's update came too late for round 1."""
    journal = Journal.create(tmp_path / "run.db", {"config": '{"seed": 42}'})
    journal.commit_round(0, "d0")
    journal.add_evaluation(**evaluation(0, "test", 40.0, 10))
    journal.open_round(1, [["client_1"], ["client_2"]])
    journal.add_update(**update(1, "client_1", 2.5))
    journal.freeze_round(1, ["client_1"])
    journal.add_update(**update(1, "client_2", 9.9))
    journal.commit_round(1, "d1")
    journal.open_round(2, [["client_1"]])
    journal.add_update(**update(2, "client_1", 2.0))
    yield journal
    journal.close()


def test_units_add_up_by_tokens(journal: Journal) -> None:
    journal.put(**{Hosted.key(f"client_{k}"): Hosted(8, 200, ("w",)).encoded() for k in (1, 2)})
    # (30 + 10) / (10 + 30): the mean over tokens is 1, the mean of the two means would be 1.67.
    journal.add_evaluation(**evaluation(1, "client_1", 30.0, 10))
    journal.add_evaluation(**evaluation(1, "client_2", 10.0, 30))
    assert global_metrics(journal) == {
        0: {"eval_loss": 4.0, "perplexity": math.exp(4.0), "num_tokens": 10, "num_examples": 2},
        1: {
            "eval_loss": 1.0,
            "perplexity": math.e,
            "num_tokens": 40,
            "num_examples": 4,
            "clients": {
                "client_1": {"eval_loss": 3.0, "perplexity": math.exp(3.0), "num_tokens": 10, "num_examples": 2},
                "client_2": {"eval_loss": 1 / 3, "perplexity": math.exp(1 / 3), "num_tokens": 30, "num_examples": 2},
            },
            "unscored_clients": [],
        },
    }
    assert list(global_metrics(journal, first=1)) == [1]
    assert coverage(global_metrics(journal)[0]) == coverage(global_metrics(journal)[1]) == ""


def test_a_mean_that_some_clients_are_not_in_says_so(journal: Journal) -> None:
    """A client whose evaluation was given up (it keeps its part of the model on another host) is missed aloud."""
    journal.put(**{Hosted.key(f"client_{k}"): Hosted(8, 200, ("w",)).encoded() for k in (1, 2, 3)})
    journal.add_evaluation(**evaluation(1, "client_2", 30.0, 10))
    score = global_metrics(journal)[1]
    assert score["eval_loss"] == 3.0 and score["unscored_clients"] == ["client_1", "client_3"]
    assert coverage(score) == "  of 1 of 3 clients"
    assert round_metrics(journal)[0]["global_metrics"] == score
    assert "unscored_clients" not in global_metrics(journal)[0], "that was the test split"


def test_one_row_per_committed_round(journal: Journal) -> None:
    (row,) = round_metrics(journal)
    assert (row["round"], row["selected_clients"], row["digest"]) == (1, ["client_1", "client_2"], "d1")
    assert row["global_metrics"] == {"eval_loss": None, "perplexity": None}, "not scored yet"
    assert row["client_metrics"] == [
        {
            "client_id": "client_1",
            "round": 1,
            "staleness": 0,
            "train_loss": 2.5,
            "train_samples": 8,
            "num_tokens": 200,
            "num_steps": 3,
            "train_seconds": 1.5,
            "update_norm": 14.5,
            "bytes_up": 100,
            "bytes_down": 50,
            "state_lost": False,
            "worker_id": "w7",
        }
    ], "of the clients that were folded, and no other"
    assert row["seconds"] >= 0


def test_history_has_round_0(journal: Journal) -> None:
    journal.add_evaluation(**evaluation(1, "test", 30.0, 10))
    metrics = training_metrics(journal)
    assert metrics["config"] == {"seed": 42}
    history = metrics["training_history"]
    assert history == {
        "rounds": [0, 1],
        "global_loss": [4.0, 3.0],
        "global_perplexity": [math.exp(4.0), math.exp(3.0)],
    }
    assert metrics["round_metrics"][0]["global_metrics"]["eval_loss"] == 3.0


def test_perplexity_beyond_a_float() -> None:
    assert perplexity(1.0) == math.e
    assert perplexity(1e6) == perplexity(700.0) == pytest.approx(1.014e304, rel=1e-3)


def test_files(tmp_path: Path, journal: Journal) -> None:
    write_metrics(tmp_path, journal)
    assert json.loads((tmp_path / "training_metrics.json").read_text()) == training_metrics(journal)
    rows = json.loads((tmp_path / "global_metrics.json").read_text())
    assert rows == [{"round": 0, **global_metrics(journal)[0]}]


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "run.db", {"config": "{}"})
    write_metrics(tmp_path, journal)
    assert json.loads((tmp_path / "training_metrics.json").read_text())["round_metrics"] == []
    journal.close()


def test_a_model_that_has_diverged_is_written_too(tmp_path: Path, journal: Journal) -> None:
    journal.add_evaluation(**evaluation(1, "test", 1e6, 10))
    write_metrics(tmp_path, journal)
    assert json.loads((tmp_path / "global_metrics.json").read_text())[1]["eval_loss"] == 1e5
