"""What a run leaves in its folder, recomputed and read by others than those who wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from running import digest_of
from safetensors.numpy import load_file

from fedmq.config import ExperimentConfig
from fedmq.data.shards import open_split
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train
from fedmq.rng import derive_seed

#: The libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

WEIGHTS = "adapter_model.safetensors"


def config_of(finished: Path) -> ExperimentConfig:
    return ExperimentConfig.load(finished / "run" / "config.json")


def rows_of(finished: Path) -> list[dict]:
    return json.loads((finished / "run" / "training_metrics.json").read_text())["round_metrics"]


def test_global_checkpoint_is_the_weighted_mean_of_the_client_checkpoints(finished: Path) -> None:
    for row in rows_of(finished):
        round, clients = row["round"], row["client_metrics"]
        before = load_file(finished / "run" / "global_model" / f"round_{round - 1}" / WEIGHTS)
        after = load_file(finished / "run" / "global_model" / f"round_{round}" / WEIGHTS)
        local = {
            c["client_id"]: load_file(finished / "run" / c["client_id"] / f"round_{round}" / WEIGHTS) for c in clients
        }
        total = sum(c["train_samples"] for c in clients)
        assert len(local) == 2 and len({c["train_samples"] for c in clients}) == 2
        for name, value in after.items():
            mean = sum(c["train_samples"] * local[c["client_id"]][name].astype(np.float64) for c in clients) / total
            np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-9)
            assert not np.array_equal(value, before[name]), "training changed something"


def test_a_client_checkpoint_is_plain_training(finished: Path) -> None:
    config = config_of(finished)
    spec = config.to_run_spec()
    lm = LanguageModel.load(
        config.model.model_name, spec.lora, max_length=spec.model.max_length, seed=config.seed, device="cpu"
    )
    initial = load_file(finished / "run" / "global_model" / "round_0" / WEIGHTS)
    for name, value in lm.initial_adapter().items():
        assert np.array_equal(value, initial[name])
    for client in (row["client_id"] for row in rows_of(finished)[0]["client_metrics"]):
        lm.set_adapter(initial)
        shard = open_split(finished / "run" / "data" / "clients" / client, "train")
        seed = derive_seed(config.seed, "train", 1, client)
        train(lm, shard, spec.training, seed=seed)
        kept = load_file(finished / "run" / client / "round_1" / WEIGHTS)
        for name, value in lm.get_adapter().items():
            assert np.array_equal(value, kept[name]), name


@pytest.mark.parametrize("folder", ["global_model/round_final", "global_model/round_1", "client"])
def test_adapters_load_with_peft(finished: Path, folder: str) -> None:
    if folder == "client":
        folder = f"{rows_of(finished)[0]['selected_clients'][0]}/round_1"
    base = transformers.AutoModelForCausalLM.from_pretrained(config_of(finished).model.model_name)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, str(finished / "run" / folder))(ids).logits
    assert not torch.equal(plain, adapted), "the adapter does something"


def test_training_metrics(finished: Path) -> None:
    metrics = json.loads((finished / "run" / "training_metrics.json").read_text())
    config = config_of(finished)
    assert metrics.keys() == {"config", "round_metrics", "training_history"}
    assert metrics["config"] == config.to_dict()
    assert [row["round"] for row in metrics["round_metrics"]] == [1, 2]
    history = metrics["training_history"]
    assert history["rounds"] == [0, 1, 2]
    for loss, perplexity in zip(history["global_loss"], history["global_perplexity"], strict=True):
        assert perplexity == pytest.approx(math.exp(loss))
    assert history["global_loss"][2] < history["global_loss"][0], "it learns"
    for row in metrics["round_metrics"]:
        assert row["global_metrics"]["eval_loss"] == history["global_loss"][row["round"]]
        assert sorted(c["client_id"] for c in row["client_metrics"]) == sorted(row["selected_clients"])
        for client in row["client_metrics"]:
            shard = json.loads((finished / "run/data/clients" / client["client_id"] / "manifest.json").read_text())
            split = shard["splits"]["train"]
            assert client["round"] == row["round"]
            assert client["train_samples"] == split["num_examples"]
            assert client["num_tokens"] == split["num_tokens"] - split["num_examples"], "targets of one epoch"
            assert client["train_loss"] > 0 and client["train_seconds"] > 0
            assert client["worker_id"] == "worker_0"
            size = (finished / "run" / client["client_id"] / f"round_{row['round']}" / WEIGHTS).stat().st_size
            # Headers of messages are some 150 bytes a piece.
            assert size < client["bytes_up"] < 1.05 * size + 500
            assert 0 <= client["bytes_down"] < 2.1 * size + 1000
        assert row["bytes_up"] == sum(client["bytes_up"] for client in row["client_metrics"])


def test_global_metrics_and_plot(finished: Path) -> None:
    rows = json.loads((finished / "run" / "global_metrics.json").read_text())
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert all(row["perplexity"] == pytest.approx(math.exp(row["eval_loss"])) for row in rows)
    test = json.loads((finished / "run" / "data" / "test" / "manifest.json").read_text())["splits"]["test"]
    assert {row["num_examples"] for row in rows} == {test["num_examples"]}
    assert {row["num_tokens"] for row in rows} == {test["num_tokens"] - test["num_examples"]}
    assert (finished / "run" / "training_progress.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_folder_holds_what_was_promised_and_nothing_half_done(finished: Path) -> None:
    run = finished / "run"
    names = {path.name for path in run.iterdir()}
    promised = {"config.json", "run.db", "global_model", "training_metrics.json", "global_metrics.json"}
    assert promised | {"training_progress.png"} <= names
    assert {path.name for path in (run / "global_model").iterdir()} == {"round_0", "round_1", "round_2", "round_final"}
    assert not [path for path in run.rglob("*") if path.name.endswith((".tmp", ".part"))]
    final = run / "global_model" / "round_final" / WEIGHTS
    assert final.read_bytes() == (run / "global_model" / "round_2" / WEIGHTS).read_bytes()
    logs = {path.name for path in (finished / "logs").iterdir()}
    selected = {client for row in rows_of(finished) for client in row["selected_clients"]}
    assert {"coordinator.log", "worker_0.log"} | selected <= logs


def test_what_a_person_sees(finished: Path) -> None:
    said, errors = (finished / "stdout").read_text(), (finished / "stderr").read_text()
    assert errors == ""
    for part in (
        "data: 120 rows read",
        "worker_0 joined on cpu (engine fast, ",
        "round 0/2  perplexity",
        "round 2/2  perplexity",
        "train loss",
        "My order",
        f"adapter SHA-256 {digest_of(finished / 'run')}",
        "results in run, logs in logs",
    ):
        assert part in said, said
    assert "\x1b" not in said, "no colours or cursor movements where there is no terminal"
