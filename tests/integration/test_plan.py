"""`fedmq run --dry-run`, and then the run: what was said of its bytes is so, and nothing was left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import fedmq

Settings = Callable[..., dict[str, Any]]
NIGHT: dict[str, dict[str, Any]] = {
    "int4, int8": {"server_optimizer": "nesterov", "upload_codec": "int4", "download_codec": "int8"},
    "fedex": {"lora_aggregation": "fedex"},
    "ffa": {"lora_aggregation": "ffa"},
    "rolora": {"lora_aggregation": "rolora", "num_rounds": 3},
    "fed_sb": {"lora_aggregation": "fed_sb", "num_rounds": 5},
    "fedsa": {"lora_aggregation": "fedsa"},
    "scaffold": {"local_method": "scaffold"},
}


def dry_run(config: Path, folder: Path) -> dict[str, Any]:
    """The plan of a run by one worker, which leaves nothing behind."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = fedmq("run", config, "--workers", 1, "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def compare(plan: dict[str, Any], run_dir: Path) -> None:
    """With the run. Adapters are of such a size that the headers around them are less than 5 %."""
    rows = json.loads((run_dir / "training_metrics.json").read_text())["round_metrics"]
    for way in ("bytes_up", "bytes_down"):
        assert plan["run"][way] == pytest.approx(sum(row[way] for row in rows), rel=0.05), way
    trained = [client for row in rows for client in row["client_metrics"]]
    planned = {client["client_id"]: client for client in plan["clients"]}
    for client in trained:
        mine = planned[client["client_id"]]
        assert (mine["num_examples"], mine["steps"]) == (client["train_samples"], client["num_steps"])
    # Who is drawn is known: this selection looks at nothing that is still to come.
    assert plan["run"]["num_tokens"] == pytest.approx(sum(client["num_tokens"] for client in trained), rel=0.01)


def test_what_was_said_is_so(finished: Path, tmp_path: Path) -> None:
    plan = dry_run(finished / "config.json", tmp_path)
    compare(plan, finished / "run")
    assert plan["memory"]["worker"] > plan["memory"]["coordinator"] > 1e7


@pytest.mark.nightly
@pytest.mark.parametrize("name", NIGHT)
def test_others(federation: Federation, tiny_settings: Settings, name: str) -> None:
    settings = tiny_settings(**NIGHT[name])
    if name == "scaffold":
        settings["training"] |= {"local_optimizer": "sgd", "weight_decay": 0.0, "max_grad_norm": 1000.0}
    settings["lora"] |= {"r": 64}
    config, folder = federation.config(**settings), federation.folder
    plan = dry_run(config, folder)
    done = fedmq("run", config, "--workers", 1, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    compare(plan, folder / "run")
    smaller = plan["round"]["bytes_down"] < plan["round"]["bytes_down_first"]
    assert smaller == (name in ("int4, int8", "ffa", "rolora", "fed_sb"))


@pytest.mark.nightly
def test_for_people_and_for_a_baseline(federation: Federation, tiny_settings: Settings) -> None:
    config = federation.config(**tiny_settings())
    done = fedmq("run", config, "--dry-run", "--baseline", "local", cwd=federation.folder)
    assert done.returncode == 0 and "in all:" in done.stdout and "nothing was trained for the run" in done.stdout
    done = fedmq("run", config, "--dry-run", "--virtual-clock", cwd=federation.folder)
    assert done.returncode == 2 and "leave --virtual-clock and --speed out" in done.stderr
