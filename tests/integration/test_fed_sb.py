"""Fed-SB between real processes: bytes, kills, the virtual clock, and what people get of it."""

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
from plain_libraries import opened_as_its_card_says
from running import accepted, digest_of, eventually, fedmq
from safetensors.numpy import load_file

from fedmq.cli import main
from fedmq.learning.tokenizer import library_warnings_to_log

Settings = Callable[..., dict[str, Any]]
RUN = {"clients_per_round": 3, "num_rounds": 4, "lora_aggregation": "fed_sb"}


@pytest.fixture(scope="module")
def virtual_run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    """Nobody disturbed it."""
    folder = tmp_path_factory.mktemp("virtual")
    (folder / "config.json").write_text(json.dumps(tiny_settings(**RUN) | {"output_dir": "run", "log_dir": "logs"}))
    done = fedmq("run", "config.json", "--virtual-clock", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.nightly
def test_all_killed_in_each_round_and_gone_on_with(
    federation: Federation, tiny_settings: Settings, virtual_run: Path
) -> None:
    """After round 2 another coordinator gives the model by other factors than the one that began it."""
    config, folder = federation.config(**tiny_settings(**RUN)), federation.folder / "run"
    for round in (1, 2, 3, 4):
        run = federation.fedmq("run", config, "--workers", 2, "--resume")
        eventually(lambda round=round: accepted(folder, round), f"an update of round {round}")  # type: ignore[misc]
        run.kill()
    run = federation.fedmq("run", config, "--workers", 2, "--resume")
    assert run.end() == 0, run.output()
    assert digest_of(folder) == digest_of(virtual_run)


def test_from_round_three_on_only_r_travels(virtual_run: Path) -> None:
    """r x r float32 a module, and a safetensors header: up at once, down when all hold the new B and A."""
    kept = load_file(virtual_run / "global_model" / "round_final" / "adapter_model.safetensors")
    modules = [name for name in kept if name.endswith(".lora_A.weight")]
    values = {name: sum(x.nbytes for key, x in kept.items() if f".lora_{name}." in key) for name in "AB"}
    values |= {"R": len(modules) * 2 * 2 * 4}
    header = 200 * len(modules)
    rows = json.loads((virtual_run / "training_metrics.json").read_text())["round_metrics"]
    for row, up, down in zip(rows, "BARR", ("ABR", "B", "ABR", "R"), strict=True):
        for client in row["client_metrics"]:
            assert values[up] < client["bytes_up"] < values[up] + header
            least = sum(values[name] for name in down)
            assert least < client["bytes_down"] < least + len(down) * header
        assert row["aggregation_bias"] == pytest.approx(0, abs=1e-9)


def here(*arguments: object) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_people_get_two_factors(virtual_run: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    """What was scored in the run is what evaluate says, and what an export is that peft loads."""
    kept = load_file(virtual_run / "global_model" / "round_final" / "adapter_model.safetensors")
    client = load_file(virtual_run / "client_0" / "round_4" / "adapter_model.safetensors")
    assert kept.keys() == client.keys() and not any(".lora_R." in name for name in kept)
    history = json.loads((virtual_run / "training_metrics.json").read_text())["training_history"]
    assert history["global_loss"][-1] < history["global_loss"][0], "it learns"
    found = json.loads(here("evaluate", virtual_run, "--json"))
    assert found["eval_loss"] == pytest.approx(history["global_loss"][-1], rel=1e-5)
    here("export", virtual_run, "--out", tmp_path / "adapter")
    here("export", virtual_run, "--out", tmp_path / "merged", "--merge")
    with library_warnings_to_log():
        base = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)
        for form in ("merged", "adapter"):
            as_said = opened_as_its_card_says(tmp_path / form)["model"](ids).logits
            torch.testing.assert_close(as_said, adapted(ids).logits, atol=1e-4, rtol=1e-4)
