"""A model for each client: what an owner gets, what the coordinator has of it, and what a run's folder can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from click.testing import CliRunner
from conftest import Federation, write_tweets
from running import fedmq
from safetensors.numpy import load, load_file

from fedmq import FederatedLearning
from fedmq.cli import main
from fedmq.config import ExperimentConfig
from fedmq.data.shards import open_split
from fedmq.errors import ConfigError
from fedmq.finished_run import own_model
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import load_for_inference
from fedmq.storage.journal import Journal
from fedmq.storage.personal import folders
from fedmq.storage.run_folder import DATABASE

Settings = Callable[..., dict[str, Any]]
#: The libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def here(*arguments: object) -> tuple[int, str]:
    """`fedmq ARGUMENTS` in this process: exit code, and all that it said."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.output


def test_an_owners_b_stays_with_the_owner(federation: Federation, tiny_settings: Settings) -> None:
    folder = federation.folder
    settings = tiny_settings(num_clients=2, clients_per_round=2, lora_aggregation="fedsa")
    coordinator = federation.coordinator(federation.config(**settings | {"data": {"dataset_path": "nowhere.csv"}}))
    work, given = folder / "host" / "work", []
    work.mkdir(parents=True)
    for seed, name in enumerate("ab", 1):
        given += ["--data", write_tweets(folder / "host" / f"{name}.csv", 30 * seed, seed=seed), "--client", name]
    host = ("--name", "host", "--device", "cpu", "--num-threads", 1, "--work-dir", work)
    owner = federation.fedmq("worker", "--connect", coordinator.address, *given, *host)
    coordinator.ended_well()
    assert owner.end() == 0, owner.output()
    run, said = folder / "run", coordinator.process.output()
    assert "each has a model of its own, and there is none of all" in said
    assert "own models are where their data are: in the folder personal of their workers' --work-dir" in said
    metrics = json.loads((run / "training_metrics.json").read_text())
    assert [row["aggregation_bias"] for row in metrics["round_metrics"]] == [None, None], "there is nothing to compare"
    assert not list(run.glob("client_*")) and not list(run.rglob("personal"))
    seen = 0
    for path in (path for path in run.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"lora_B" not in content, path
        seen += b"lora_A" in content
    assert seen, "A is there"

    last = metrics["round_metrics"][-1]["global_metrics"]
    losses = []
    (place,) = (work / "personal").glob("*")
    for client, own in folders(place).items():
        assert f"{client}'s own model: {own}" in owner.output()
        model = load_for_inference(settings["model"]["model_name"], own, device="cpu", max_length=24)
        score = evaluate(model, open_split(work / "shards" / client, "test"), batch_size=8)
        assert last["clients"][client]["eval_loss"] == pytest.approx(score.eval_loss, rel=1e-5)
        shared = load_file(run / "global_model" / "round_final" / "adapter_model.safetensors")
        mine = load((own / "adapter_model.safetensors").read_bytes())
        assert all((mine[name] == value).all() for name, value in shared.items()) and len(mine) == 2 * len(shared)
        losses.append((score.loss_sum, score.num_tokens))
    assert len(losses) == 2
    whole = sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses)
    assert metrics["training_history"]["global_loss"][-1] == pytest.approx(whole, rel=1e-5)
    code, text = here("evaluate", run, "--data", folder / "host" / "a.csv")
    assert code == 2 and "has no model of all clients" in text and "where their data are" in text


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    """A run with local workers, in which client_0 to client_2 are each drawn once or more."""
    folder = tmp_path_factory.mktemp("local")
    settings = tiny_settings(lora_aggregation="fedsa", clients_per_round=3, upload_codec="int4")
    (folder / "config.json").write_text(json.dumps(settings | {"output_dir": "run", "log_dir": "logs"}))
    done = fedmq("run", "config.json", "--workers", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.mark.nightly
def test_the_folder_of_a_local_run(local: Path, tmp_path: Path, tiny_gpt2: Path) -> None:
    run, said = local / "run", (local / "stdout").read_text()
    assert "in 2 rounds, of the clients' own models" in said and "  held-out perplexity " in said
    assert "clients' own models are in run/personal: fedmq generate, evaluate and export take them by --client" in said
    assert json.loads((run / "training_metrics.json").read_text())["round_metrics"][0]["global_metrics"]["clients"]
    for arguments in (("evaluate", run), ("generate", run, "--prompt", "My"), ("export", run, "--out", tmp_path / "x")):
        code, text = here(*arguments)
        assert code == 2 and "has no model of all clients" in text and "say whose, such as client_0 (--client, " in text
        code, text = here(*arguments, "--client", "client_7")
        assert code == 2 and "client_7 has no model of its own here: no such client" in text
    last = json.loads((run / "global_metrics.json").read_text())[-1]["clients"]["client_1"]
    code, text = here("evaluate", run, "--client", "client_1", "--json")
    assert code == 0 and json.loads(text) == pytest.approx(last, rel=1e-5)
    code, text = here("generate", run, "--client", "client_1", "--prompt", "My")
    config = ExperimentConfig.load(run / "config.json").with_overrides([f"output_dir={json.dumps(str(run))}"])
    (result,) = FederatedLearning(config).test_generation(["My"], client="client_1")
    assert code == 0 and text == f"My{result['generated']}\n"
    assert here("export", run, "--client", "client_1", "--out", tmp_path / "own")[0] == 0
    weights = (tmp_path / "own" / "adapter_model.safetensors").read_bytes()
    assert weights == (run / "personal" / "client_1" / "round_2" / "adapter_model.safetensors").read_bytes()

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    with pytest.warns(UserWarning, match="Found missing adapter keys while loading the checkpoint: .*lora_B"):
        peft.PeftModel.from_pretrained(base, run / "global_model" / "round_final")


def test_texts_of_a_clients_own_model_from_python(tmp_path: Path) -> None:
    config = ExperimentConfig.from_dict({"federated": {"lora_aggregation": "fedsa"}, "output_dir": str(tmp_path)})
    journal = Journal.create(tmp_path / DATABASE, {"config": json.dumps(config.to_dict()), "base_digest": "ab" * 32})
    journal.commit_round(0, "cd" * 32)
    journal.close()
    (tmp_path / "personal" / "client_0" / "round_1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="say whose, such as client_0"):
        FederatedLearning(config).test_generation(["My"])
    with pytest.raises(ConfigError, match="client_1 has no model of its own here"):
        FederatedLearning(config).test_generation(["My"], client="client_1")


def test_whose_model_is_meant(tmp_path: Path) -> None:
    assert own_model(tmp_path, None, personal=False) is None
    with pytest.raises(ConfigError, match="has one model, of all clients: leave the client out, client_0 has"):
        own_model(tmp_path, "client_0", personal=False)
    with pytest.raises(ConfigError, match="has no model of all clients .*; clients' own models are where their data"):
        own_model(tmp_path, "client_0", personal=True)
    for version in (9, 10):
        (tmp_path / "personal" / "client_0" / f"round_{version}").mkdir(parents=True)
    found = own_model(tmp_path, "client_0", personal=True)
    assert found is not None and found[0].parent == tmp_path / "personal" / "client_0" / "round_10"
    with pytest.raises(ConfigError, match="say whose, such as client_0 .--client, from Python client=.$"):
        own_model(tmp_path, None, personal=True)
    with pytest.raises(ConfigError, match=r"client_1 has no model of its own here: .* \(here are client_0\)"):
        own_model(tmp_path, "client_1", personal=True)
