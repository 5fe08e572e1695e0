"""What a baseline is of its run: the same budget, the same scores, another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmq.baselines import baseline_of, baselines_of, settings_digest
from fedmq.config import ExperimentConfig
from fedmq.config_baseline import Kind
from fedmq.errors import ConfigError
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE, new_meta

KINDS: tuple[Kind, ...] = ("local", "central", "zero-shot")


def config(folder: Path, **sections: Any) -> ExperimentConfig:
    return ExperimentConfig.from_dict({"output_dir": str(folder), "log_dir": str(folder / "logs")} | sections)


def run_in(folder: Path, settings: ExperimentConfig, **meta: str) -> None:
    """A folder with the journal of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    decisive = json.dumps(settings.decisive() | {"aggregator": "own"}, sort_keys=True)
    journal = Journal.create(folder / DATABASE, new_meta(json.dumps(settings.to_dict()), decisive) | meta)
    journal.close()


def test_methods_of_the_run_are_not_those_of_its_baselines(tmp_path: Path) -> None:
    federated = {"server_optimizer": "nesterov", "upload_codec": "int4", "lora_aggregation": "fedex", "num_rounds": 7}
    run = config(tmp_path, federated=federated | {"mode": "semi_sync"}, training={"num_epochs": 2})
    local, central, zero = (baseline_of(run, kind) for kind in KINDS)
    for baseline in (local, central, zero):
        assert baseline.training == run.training and baseline.lora == run.lora and baseline.data == run.data
        plain = (baseline.federated.server_optimizer, baseline.federated.upload_codec, baseline.federated.mode)
        assert plain == ("none", "fp32", "sync")
        assert baseline.output_dir == str(tmp_path / "baselines" / str(baseline.baseline.kind))
        assert baseline.baseline.of == settings_digest(run.decisive())
    assert (local.federated.lora_aggregation, local.federated.num_rounds, local.federated.clients_per_round) == (
        *("local", 7, 3),
    )
    # 3 of 10 clients a round: ten slices that have the rows of three.
    assert (central.federated.num_clients, central.federated.clients_per_round, central.federated.num_rounds) == (
        *(10, 1, 7),
    )
    assert zero.federated.num_rounds == 0


def test_the_budget_of_an_asynchronous_run_is_that_of_its_buffer(tmp_path: Path) -> None:
    run = config(tmp_path, federated={"mode": "async", "clients_per_round": 4, "async_options": {"buffer_size": 2}})
    assert baseline_of(run, "local").federated.clients_per_round == 2
    assert baseline_of(run, "central").federated.num_clients == 5


def test_where_clients_have_models_of_their_own_all_is_scored_on_their_texts(tmp_path: Path) -> None:
    run = config(tmp_path, federated={"lora_aggregation": "fedsa", "clients_per_round": 5})
    assert [baseline_of(run, kind).baseline.scored_on for kind in KINDS] == ["own"] * 3
    assert baseline_of(run, "central").federated.num_clients == 10, "each brings the texts of one client"
    assert baseline_of(run, "zero-shot").federated.lora_aggregation == "fedsa"


def beside_another(folder: Path) -> None:
    run_in(folder, config(folder, seed=7))
    baseline_of(config(folder), "local")


REFUSED = {
    "B62 a baseline of a baseline": (
        lambda folder: baseline_of(baseline_of(config(folder), "local"), "central"),
        "give that of its run",
    ),
    "B62 a baseline in the folder of another run": (beside_another, "(other: seed)"),
    "B62 half a section baseline": (
        lambda folder: config(folder, baseline={"kind": "central"}),
        "--baseline KIND",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(tmp_path: Path, row: str) -> None:
    tried, said = REFUSED[row]
    with pytest.raises(ConfigError) as caught:
        tried(tmp_path)
    assert said in str(caught.value)


def test_baselines_are_found_beside_their_run(tmp_path: Path) -> None:
    run = config(tmp_path)
    run_in(tmp_path, run)
    for kind in ("local", "central"):
        baseline = baseline_of(run if kind == "local" else config(tmp_path / "elsewhere", seed=1), kind)
        run_in(tmp_path / "baselines" / kind, baseline, status="done")
    (tmp_path / "baselines" / "zero-shot").mkdir()
    (tmp_path / "baselines" / "zero-shot" / DATABASE).write_text("no database")
    found = baselines_of(tmp_path)
    assert (found["local"]["same_settings"], found["central"]["same_settings"]) == (True, False)
    assert found["local"]["status"] == "done" and found["local"]["perplexity"] is None
    assert "zero-shot" in found["zero-shot"]["reason"]
