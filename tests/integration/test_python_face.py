"""FederatedLearning as a user writes it, in a script without and with a main guard; notebooks: test_notebooks.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Federation
from running import environment
from safetensors.numpy import load_file

from fedmq.data.shards import open_split
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train
from fedmq.rng import derive_seed

SETUP = """\
import json, os
from pathlib import Path
from fedmq import ExperimentConfig, FederatedLearning, get_default_config
config = get_default_config()
config.federated.clients_per_round = 1
config.federated.num_clients = 1
config.federated.num_rounds = 1
config.save("my_config.json")
config = ExperimentConfig.load("my_config.json")
config = ExperimentConfig.from_dict(config.to_dict() | json.loads(Path("settings.json").read_text()))
print(config)
"""
RUN = """\
fed = FederatedLearning(config)
fed.setup()
agents = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
rounds = fed.train()
texts = fed.test_generation(["My order is"])
Path("result.json").write_text(json.dumps({"rounds": rounds, "texts": texts, "pid": os.getpid(), "agents": agents}))
"""
GUARDED = f"{SETUP}\nif __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in RUN.splitlines())


@pytest.fixture
def folder(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> Path:
    settings = tiny_settings(num_clients=1, clients_per_round=1, num_rounds=1)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return done


def check_result(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    (row,) = result["rounds"]
    assert row["round"] == 1 and row["selected_clients"] == ["client_0"]
    (text,) = result["texts"]
    assert text.keys() == {"prompt", "generated"} and text["prompt"] == "My order is"
    assert result["agents"] and str(result["pid"]) not in result["agents"], "workers are processes of their own"


@pytest.mark.parametrize(
    "source", [SETUP + RUN, pytest.param(GUARDED, marks=pytest.mark.nightly)], ids=["unguarded", "guarded"]
)
def test_script(folder: Path, source: str) -> None:
    (folder / "script.py").write_text(source)
    done = python(folder, "script.py")
    check_result(folder)
    assert done.stderr == ""
    assert "round 1/1" in done.stdout and "\nMy order is" in done.stdout
    if source is not GUARDED:
        check_one_client_one_round_is_plain_training(folder)


def check_one_client_one_round_is_plain_training(folder: Path) -> None:
    from fedmq import ExperimentConfig

    run = folder / "fed_results"
    config = ExperimentConfig.load(run / "config.json")
    spec = config.to_run_spec()
    lm = LanguageModel.load(spec.model.name, spec.lora, max_length=24, seed=config.seed, device="cpu")
    texts = open_split(run / "data" / "clients" / "client_0", "train")
    seed = derive_seed(config.seed, "train", 1, "client_0")
    train(lm, texts, spec.training, seed=seed)
    kept = load_file(run / "global_model" / "round_final" / "adapter_model.safetensors")
    for name, value in lm.get_adapter().items():
        # The mean of one update, taken in float64: global + (local - global).
        np.testing.assert_allclose(kept[name], value, rtol=1e-6, atol=1e-9)
        assert not np.array_equal(value, lm.initial_adapter()[name])


OWN_RULE = """\
asked = []
def newest(candidates, draw):
    asked.append(draw.round)
    return [max(one.client_id for one in candidates)]
fed = FederatedLearning(config, sampler=newest, local_workers=0)
fed.setup()
print("listening on", fed.address, flush=True)
rounds = fed.train()
assert asked == [1, 2], asked
Path("result.json").write_text(json.dumps([row["selected_clients"] for row in rounds]))
config.federated.selection = "oort"
config.output_dir = "another"
try:
    FederatedLearning(config, sampler=newest).setup()
except Exception as error:
    print("refused:", error)
"""


def test_an_own_rule_of_selection(federation: Federation) -> None:
    folder = federation.folder
    settings = {"federated": {"num_clients": 3, "clients_per_round": 1, "num_rounds": 2}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "script.py").write_text(SETUP + OWN_RULE)
    script = federation.start(sys.executable, "script.py")
    address = script.wait_line(r"^listening on (\S+)$")[1]
    federation.noop_worker(address, "w", clients=["client_0", "client_1", "client_2"])
    assert script.end() == 0, script.output()
    assert json.loads((folder / "result.json").read_text()) == [["client_2"]] * 2
    assert script.wait_line("^refused: federated.selection is 'oort' and a sampler was given: leave one out")
    assert not (folder / "another").exists()
