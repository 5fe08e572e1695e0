"""Runs whose base grows: killed and resumed, by the virtual clock, and opened by people afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from conftest import Federation
from plain_libraries import mean_loss, opened_as_its_card_says
from running import children, command_line, digest_of, eventually, fedmq, kill_pid

from fedmq.cli import main
from fedmq.storage.journal import Journal

Settings = Callable[..., dict[str, Any]]
GROWS = {"clients_per_round": 3, "num_rounds": 3, "save_every": 1, "lora_aggregation": "fedex"}


def links(run_dir: Path, version: int) -> list[str]:
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        return journal.links(version)
    finally:
        journal.close()


def settings_of(tiny_settings: Settings, **federated: Any) -> dict[str, Any]:
    found = tiny_settings(**GROWS | federated)
    found["training"]["clients_per_batch"] = 1
    return found


@pytest.fixture(scope="module")
def virtual_run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    """One trainer in one process, which was there from the first round on."""
    folder = tmp_path_factory.mktemp("virtual")
    config = settings_of(tiny_settings) | {"output_dir": "run", "log_dir": "logs"}
    (folder / "config.json").write_text(json.dumps(config))
    done = fedmq("run", "config.json", "--virtual-clock", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_all_processes_killed_and_resumed_end_with_the_same_bits(
    federation: Federation, tiny_settings: Settings, virtual_run: Path
) -> None:
    """Those that are started again make the base of round 2 from its links at once."""
    config, run_dir = federation.config(**settings_of(tiny_settings)), federation.folder / "run"
    run = federation.fedmq("run", config, "--workers", 1)
    eventually(lambda: (run_dir / "run.db").exists() and len(links(run_dir, 2)) == 2, "round 2")
    for pid in [pid for pid in children(run.pid) if "--name worker_" in command_line(pid)]:
        kill_pid(pid)
    run.kill()
    run = federation.fedmq("run", config, "--workers", 2, "--resume")
    assert run.end() == 0, run.output()
    assert digest_of(run_dir) == digest_of(virtual_run)
    assert links(run_dir, 3) == links(virtual_run, 3) and len(set(links(run_dir, 3))) == 3
    assert not list(run_dir.glob("workers/*/blobs/*")), "workers keep nothing of a run that is done"


def test_the_virtual_clock_counts_what_each_device_would_fetch(virtual_run: Path) -> None:
    """The adapter, and of the links those that it has not: one more in each round."""
    sizes = [(virtual_run / "blobs" / link).stat().st_size for link in links(virtual_run, 3)]
    adapter = (virtual_run / "global_model" / "round_final" / "adapter_model.safetensors").stat().st_size
    rounds = json.loads((virtual_run / "training_metrics.json").read_text())["round_metrics"]
    down = [{client["bytes_down"] for client in row["client_metrics"]} for row in rounds]
    assert down == [{adapter}, {adapter + sizes[0]}, {adapter + sizes[1]}]


def here(*arguments: object) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_finished_run_is_its_adapter_on_the_base_that_has_grown(virtual_run: Path, tmp_path: Path) -> None:
    last = json.loads((virtual_run / "global_metrics.json").read_text())[-1]
    found = json.loads(here("evaluate", virtual_run, "--json"))
    assert found["eval_loss"] == pytest.approx(last["eval_loss"], rel=1e-6)
    here("export", virtual_run, "--out", tmp_path / "merged", "--merge")
    here("export", virtual_run, "--out", tmp_path / "adapter")
    name = json.loads((virtual_run.parent / "config.json").read_text())["model"]["model_name"]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        base = transformers.AutoModelForCausalLM.from_pretrained(name).eval()
        exact = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(ids).logits
        merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
        torch.testing.assert_close(merged, exact, rtol=1e-4, atol=1e-5)
        for form in ("merged", "adapter"):
            as_said = opened_as_its_card_says(tmp_path / form)["model"](ids).logits
            torch.testing.assert_close(as_said, exact, rtol=1e-4, atol=1e-5)
        base = transformers.AutoModelForCausalLM.from_pretrained(name).eval()
        folder = virtual_run / "global_model" / "round_final"
        with pytest.warns(UserWarning, match="merged_into_base"):
            model = peft.PeftModel.from_pretrained(base, str(folder))
        alone = model.eval()(ids).logits
    assert not torch.allclose(alone, exact, atol=1e-4), "what was merged is a part of the model"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("lora_aggregation", ["flora", "fed_sb", "fedsa", "rolora", "fedit"])
def test_an_export_scores_as_the_run(tiny_settings: Settings, tmp_path: Path, lora_aggregation: str) -> None:
    config = settings_of(tiny_settings, lora_aggregation=lora_aggregation) | {"output_dir": "run", "log_dir": "logs"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = fedmq("run", "config.json", "--virtual-clock", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = "How long does a refund take? It has been two weeks now."
    (tmp_path / "own.csv").write_text(f"text,author_id,inbound\n{text},1,True\n")
    whose = ["--client", "client_1"] if lora_aggregation == "fedsa" else []
    run = tmp_path / "run"
    found = json.loads(here("evaluate", run, "--data", tmp_path / "own.csv", "--json", *whose))
    for form, merge in (("adapter", []), ("merged", ["--merge"])):
        here("export", run, "--out", tmp_path / form, *merge, *whose)
        loss = mean_loss(opened_as_its_card_says(tmp_path / form), [text], config["model"]["max_length"])
        assert loss == pytest.approx(found["eval_loss"], rel=1e-5)
