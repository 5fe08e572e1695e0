"""`fedmq run --dry-run`, and then the run: what was said of its bytes is so, and nothing was left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Federation
from running import fedmq

Settings = Callable[..., dict[str, Any]]
DAY = {"server_optimizer": "nesterov", "upload_codec": "int4", "download_codec": "int8"}
NIGHT: dict[str, dict[str, Any]] = {
    "fedit": {},
    "fedex": {"lora_aggregation": "fedex"},
    "ffa": {"lora_aggregation": "ffa"},
    "fedsa": {"lora_aggregation": "fedsa"},
    "scaffold": {"local_method": "scaffold"},
}


def compare(federation: Federation, settings: dict[str, Any]) -> dict[str, Any]:
    """Plan and run by one worker; the plan. An adapter of such a size that the headers around it are less than 5 %."""
    settings["lora"] |= {"r": 64}
    config, folder = federation.config(**settings), federation.folder
    before = sorted(path.name for path in folder.iterdir())
    done = fedmq("run", config, "--workers", 1, "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before, "nothing is written"
    plan: dict[str, Any] = json.loads(done.stdout)
    done = fedmq("run", config, "--workers", 1, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    real = json.loads(done.stdout)
    for way in ("bytes_up", "bytes_down"):
        assert plan["run"][way] == pytest.approx(real[way], rel=0.05), way
    rows = json.loads((folder / "run" / "training_metrics.json").read_text())["round_metrics"]
    trained = [client for row in rows for client in row["client_metrics"]]
    planned = {client["client_id"]: client for client in plan["clients"]}
    for client in trained:
        mine = planned[client["client_id"]]
        assert (mine["num_examples"], mine["steps"]) == (client["train_samples"], client["num_steps"])
    # Who is drawn is known: this selection looks at nothing that is still to come.
    assert plan["run"]["num_tokens"] == pytest.approx(sum(client["num_tokens"] for client in trained), rel=0.01)
    return plan


def test_int4_up_int8_down_and_nesterov(federation: Federation, tiny_settings: Settings) -> None:
    plan = compare(federation, tiny_settings(**DAY))
    assert plan["round"]["bytes_down"] < plan["round"]["bytes_down_first"]
    assert plan["memory"]["worker"] > plan["memory"]["coordinator"] > 1e7


@pytest.mark.nightly
@pytest.mark.parametrize("name", NIGHT)
def test_others(federation: Federation, tiny_settings: Settings, name: str) -> None:
    settings = tiny_settings(**NIGHT[name])
    if name == "scaffold":
        settings["training"] |= {"local_optimizer": "sgd", "weight_decay": 0.0, "max_grad_norm": 1000.0}
    compare(federation, settings)


@pytest.mark.nightly
def test_for_people_and_for_a_baseline(federation: Federation, tiny_settings: Settings) -> None:
    config = federation.config(**tiny_settings())
    done = fedmq("run", config, "--dry-run", "--baseline", "local", cwd=federation.folder)
    assert done.returncode == 0 and "in all:" in done.stdout and "nothing was trained for the run" in done.stdout
    done = fedmq("run", config, "--dry-run", "--virtual-clock", cwd=federation.folder)
    assert done.returncode == 2 and "leave --virtual-clock and --speed out" in done.stderr
