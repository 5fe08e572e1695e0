"""Rules of selection and partitions between real processes: set by a user, killed, resumed, and of a user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import REPO, accepted, eventually, fedmq, here

from fedmq.config import resolve_dataset_path
from fedmq.storage.journal import Journal

CLIENTS = [f"client_{k}" for k in range(6)]
SIX = {"num_clients": 6, "clients_per_round": 2, "num_rounds": 6}


def rounds(run_dir: Path) -> list[dict[str, Any]]:
    """The committed rounds of training, and what each drawn client counts in them."""
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        return [row | {"counts": journal.weights(row["round"])} for row in journal.rounds(1)]
    finally:
        journal.close()


def selections(run_dir: Path) -> list[list[str]]:
    return [row["selected"] for row in rounds(run_dir)]


def play(federation: Federation, name: str, **federated: Any) -> Path:
    """A run of one worker that hosts all clients; its folder."""
    coordinator = federation.coordinator(federation.config(name, federated=SIX | federated))
    federation.noop_worker(coordinator.address, f"worker_of_{name}", clients=CLIENTS)
    coordinator.ended_well()
    return federation.folder / name


@pytest.mark.nightly
@pytest.mark.parametrize("selection", ["power_of_choice", "oort"])
def test_a_coordinator_that_is_killed_and_resumed_draws_the_same(
    federation: Federation, free_port: int, selection: str
) -> None:
    """Killed in every round, while a training waits at a gate: the drawn clients and the models are the same."""
    calm = play(federation, "calm", selection=selection)
    config = federation.config("killed", federated=SIX | {"selection": selection})
    coordinator = federation.coordinator(config, port=free_port)
    gate = federation.gate("training")
    gates = dict.fromkeys(CLIENTS, str(gate.path))
    federation.noop_worker(coordinator.address, "w0", clients=CLIENTS, gates=gates)
    run_dir, kills = federation.folder / "killed", 0
    for round in range(1, 7):
        gate.reached()
        coordinator.process.kill()
        kills += 1
        gate.open()
        coordinator = federation.coordinator(config, "--resume", port=free_port)
        eventually(lambda: len(accepted(run_dir, round)) >= 1, f"an update of round {round}")  # noqa: B023  at once
        gate.open()
    digest = coordinator.ended_well()
    assert kills == 6, "the fault fired"
    assert selections(run_dir) == selections(calm)
    assert [row["digest"] for row in rounds(run_dir)] == [row["digest"] for row in rounds(calm)]
    assert rounds(calm)[-1]["digest"] == digest
    assert len({tuple(chosen) for chosen in selections(calm)}) > 2, "it is no fixed choice"


def test_the_rule_makes_a_difference(federation: Federation) -> None:
    drawn = {
        name: selections(play(federation, name, selection=name)) for name in ("uniform", "round_robin", "weighted")
    }
    assert drawn["round_robin"] == [["client_0", "client_1"], ["client_2", "client_3"], ["client_4", "client_5"]] * 2
    assert len({json.dumps(each) for each in drawn.values()}) == 3
    counts = [row["counts"] for row in rounds(federation.folder / "weighted")]
    assert all(set(weights) == set(chosen) for weights, chosen in zip(counts, drawn["weighted"], strict=True))


def test_the_rule_of_the_documentation(federation: Federation) -> None:
    """The example of docs/algorithms.md, as it stands there: a module beside the config."""
    page = (REPO / "docs" / "algorithms.md").read_text(encoding="utf-8")
    sources = re.findall(r"```python\n(# my_rules\.py\n.*?)```", page, re.DOTALL)
    (source,) = [source for source in sources if "def rarest" in source]
    (federation.folder / "my_rules.py").write_text(source)
    (settings,) = re.findall(r"```json\n(\{\"federated\": \{\"selection\": \"my_rules:.*?)```", page, re.DOTALL)
    run_dir = play(federation, "own", **json.loads(settings)["federated"])
    drawn = selections(run_dir)
    # It takes those that were drawn least, and of these the largest.
    assert sorted(client for chosen in drawn[:3] for client in chosen) == CLIENTS
    assert drawn[0] != ["client_0", "client_1"]


def test_an_own_rule_that_fails(federation: Federation) -> None:
    (federation.folder / "bad_rules.py").write_text("def none(candidates, draw):\n    return candidates[9]\n")
    config = federation.config("bad", federated=SIX | {"selection": "bad_rules:none"})
    coordinator = federation.coordinator(config)
    federation.noop_worker(coordinator.address, "w0", clients=CLIENTS)
    assert coordinator.process.end() == 1
    said = "round 1: the selection bad_rules:none failed: IndexError: list index out of range"
    assert said in coordinator.process.text("stderr") and "Traceback" not in coordinator.process.text("stderr")
    config = federation.config("none", federated=SIX | {"selection": "bad_rules:some"})
    done = here("coordinator", config, "--bind", "tcp://127.0.0.1:0", cwd=federation.folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "has no some" in done.stderr
    assert not (federation.folder / "none").exists()


def test_by_brand_and_a_rule_that_looks_back(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    """Real trainings on the bundled sample: a client is a company, and the least satisfied ones train."""
    settings = tiny_settings(
        num_clients=8, clients_per_round=2, data_distribution="by_brand", min_samples_per_client=20,
        selection="power_of_choice", selection_options={"d": 4},
    )  # fmt: skip
    settings["training"]["max_samples_per_client"] = 16
    settings["data"]["dataset_path"] = "bundled"
    (tmp_path / "config.json").write_text(json.dumps(settings | {"output_dir": "run", "log_dir": "logs"}))
    done = fedmq("run", "config.json", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"client_0 +\d+ rows .* authors, brand CrossRail_Help\n", done.stdout)
    assert "round 2/2  perplexity" in done.stdout
    first, second = rounds(tmp_path / "run")
    assert set(first["counts"].values()) == {1.0} == set(second["counts"].values())
    partition = json.loads((tmp_path / "run" / "data" / "partition.json").read_text())
    assert resolve_dataset_path("bundled").name == partition["file"]
    assert len({client["brand"] for client in partition["clients"]}) == 8


def test_what_data_check_says(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    settings = tiny_settings(num_clients=4, clients_per_round=2, data_distribution="dirichlet")
    settings["data"]["dataset_path"] = "bundled"
    (tmp_path / "config.json").write_text(json.dumps(settings))
    done = here("data", "check", "config.json", "--set", "federated.distribution_options.alpha=0.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"classes of a client and of all rows: total variation 0\.\d{3} on average\n", done.stdout)
    assert len(re.findall(r"client_\d +\d+ rows .* authors, total variation 0\.\d{3}\n", done.stdout)) == 4
    done = here("data", "check", "config.json", "--set", "federated.distribution_options.min_rows=500", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "support_tweets.csv: 1762 training rows of 8 classes (label brand) do not give 4 clients 500" in done.stderr
