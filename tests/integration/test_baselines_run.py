"""Baselines as they run: each client alone, all data at one place, and nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import fedmq
from safetensors.numpy import load_file

from fedmq import FederatedLearning
from fedmq.baselines import baseline_of, baselines_of
from fedmq.config import ExperimentConfig
from fedmq.data.shards import open_split
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import load_for_inference
from fedmq.storage.personal import folders

Settings = Callable[..., dict[str, Any]]
#: The libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.mark.nightly
def test_alone(tmp_path: Path, tiny_settings: Settings) -> None:
    """The virtual clock takes one trainer; each own model scores on the test of all what the journal says."""
    places = {"output_dir": str(tmp_path / "run"), "log_dir": str(tmp_path / "logs")}
    run = ExperimentConfig.from_dict(tiny_settings(num_rounds=1) | places)
    local = baseline_of(run, "local")
    fed = FederatedLearning(local, speeds={})
    fed.setup()
    (row,) = fed.train()
    first, last = fed.server.scores()[0]["clients"], fed.server.scores()[1]["clients"]
    fed.close()
    assert len(row["client_metrics"]) == 2 and row["bytes_up"] < 100
    own = folders(Path(local.output_dir) / "personal")
    assert set(own) == set(row["selected_clients"]) and len(first) == 3
    texts = open_split(Path(local.output_dir) / "data" / "test", "test")
    for client, score in last.items():
        if client not in own:
            assert score == first[client], "it was not drawn: it has the base"
            continue
        model = load_for_inference(run.model.model_name, own[client], device="cpu", max_length=24)
        found = evaluate(model, texts, batch_size=8)
        assert score["eval_loss"] == pytest.approx(found.eval_loss, rel=1e-5) and score != first[client]
    one, other = (load_file(path / "adapter_model.safetensors") for path in own.values())
    assert all((one[name] != other[name]).any() for name in one), "nothing of one is the other's"


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["fedit", "fedsa"])
def test_killed_and_started_again(federation: Federation, tiny_settings: Settings, method: str) -> None:
    """Central and local, killed in the second round, end as those that were not; and all stand beside the run."""
    settings = tiny_settings(num_rounds=3, lora_aggregation=method)
    whole, cut = (federation.config(name, **settings) for name in ("whole", "cut"))
    results = {}
    for kind in ("central", "local", "zero-shot"):
        done = fedmq("run", whole, "--baseline", kind, "--json", cwd=federation.folder)
        assert done.returncode == 0, done.stderr
        results[kind] = json.loads(done.stdout)
        process = federation.fedmq("run", cut, "--baseline", kind)
        if kind != "zero-shot":
            process.wait_line(r"^round 1/3")
            process.kill()
            process.end()
            process = federation.fedmq("run", cut, "--baseline", kind, "--resume")
        assert process.end() == 0, process.output()
    for kind, result in results.items():
        found = baselines_of(federation.folder / "cut")[kind]
        last = str(result["rounds"])
        assert found["perplexity"] == result["perplexity"][last] and found["status"] == "done"
        assert result["perplexity"]["0"] == results["zero-shot"]["perplexity"]["0"]
    assert results["central"]["perplexity"]["3"] < results["local"]["perplexity"]["3"]
    for name, path in folders(federation.folder / "whole/baselines/local/personal").items():
        mine = (path / "adapter_model.safetensors").read_bytes()
        other = folders(federation.folder / "cut/baselines/local/personal")[name]
        assert mine == (other / "adapter_model.safetensors").read_bytes()
