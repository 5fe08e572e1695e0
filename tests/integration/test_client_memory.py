"""What training remembers of a client survives kills: the run ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import accepted, digest_of, eventually, fedmq

Settings = Callable[..., dict[str, Any]]
Make = Callable[[str], dict[str, Any]]
#: every client is trained in every round, and remembers
MEMORIES: dict[str, dict[str, dict[str, Any]]] = {
    "keep": {"training": {"optimizer_state": "keep"}},
    "feddyn": {"federated": {"local_method": "feddyn", "weighting": "uniform"}},
    "fedsa": {"federated": {"lora_aggregation": "fedsa"}},
    "scaffold": {
        "federated": {"local_method": "scaffold"},
        "training": {"local_optimizer": "sgd", "learning_rate": 0.1},
    },
    "ranks": {
        "lora": {"rank_per_client": {"client_0": 1, "client_2": 2}},
        "federated": {"lora_aggregation": "hetlora", "upload_codec": "sign"},
        "training": {"optimizer_state": "keep"},
    },
}

#: by day the one that has most to lose: c_k with the client, c with the round and in the file that goes down
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "scaffold" else pytest.mark.nightly) for name in MEMORIES]
)


@pytest.fixture(scope="module")
def make(tiny_settings: Settings) -> Make:
    def settings(name: str) -> dict[str, Any]:
        values = tiny_settings(clients_per_round=3, num_rounds=3)
        for section, fields in MEMORIES[name].items():
            values[section] = values[section] | fields
        return values

    return settings


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, make: Make) -> Callable[[str], Path]:
    @functools.cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        (folder / "config.json").write_text(json.dumps(make(name) | {"output_dir": "run", "log_dir": "logs"}))
        done = fedmq("run", "config.json", "--workers", 1, cwd=folder)
        assert done.returncode == 0, done.stderr
        return folder / "run"

    return run


def own_models(folder: Path) -> dict[str, bytes]:
    """Adapter files, by where they are."""
    found = (folder / "personal").rglob("*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@each
def test_everything_is_killed_in_each_round(
    federation: Federation, make: Make, undisturbed: Callable[[str], Path], name: str, nightly: bool
) -> None:
    """Coordinator and workers, when something of the round is accepted; their successors find what there is."""
    config, folder = federation.config(**make(name)), federation.folder / "run"
    for round in (1, 2) if nightly else (2,):
        run = federation.fedmq("run", config, "--workers", 2 if nightly else 1, "--resume")
        eventually(lambda round=round: accepted(folder, round), f"an update of round {round}")  # type: ignore[misc]
        run.kill()
    run = federation.fedmq("run", config, "--workers", 2, "--resume")
    assert run.end() == 0, run.output()
    metrics = json.loads((folder / "training_metrics.json").read_text())
    rows = [client for round in metrics["round_metrics"] for client in round["client_metrics"]]
    assert len(rows) == 9 and not any(row["state_lost"] for row in rows)
    assert digest_of(folder) == digest_of(undisturbed(name))
    if name == "fedsa":
        own, others = own_models(folder), own_models(undisturbed(name))
        assert len(own) == 3 and own == others
    assert not (folder / "client_states").exists()


@pytest.mark.nightly
@each
def test_memories_do_matter(federation: Federation, make: Make, undisturbed: Callable[[str], Path], name: str) -> None:
    """The runs above would not end alike if what is remembered were left out, or lost on the way."""
    config, folder = federation.config(**make(name)), federation.folder / "run"
    run = federation.fedmq("run", config, "--workers", 1)
    eventually(lambda: accepted(folder, 2), "an update of round 2")
    run.kill()
    for path in (folder / "client_states").rglob("*.safetensors"):
        path.unlink()
    run = federation.fedmq("run", config, "--workers", 1, "--resume")
    assert run.end() == 0, run.output()
    assert "remembered of its last update is not there" in run.output()
    assert digest_of(folder) != digest_of(undisturbed(name))
