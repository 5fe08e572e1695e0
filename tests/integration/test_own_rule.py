"""A user's own aggregation rule in real runs: from a config, from Python, broken and mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Federation
from running import digest_of

#: says who imports it, and when it is used
MODULE = """\
import os
from pathlib import Path
import numpy as np
from fedmq.algorithms.rows import of_rows
with open(Path(__file__).with_name("imported"), "a") as file:
    print(os.getpid(), file=file)
def halved(share=0.5):
    def rule(matrix):
        {fault}
        return share * np.concatenate([block.mean(axis=0) for _, block in matrix.blocks()])
    return of_rows(rule, fewest=2)
"""
NOOP = {"generation": {"prompts": []}}
FEDERATED = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 2, "save_every": 1}
METHOD = {"aggregation_method": "own_halved:halved", "aggregation_options": {"share": 0.25}}
SCRIPT = """\
import json, sys
from fedmq import ExperimentConfig, FederatedLearning
from own_halved import halved
config = ExperimentConfig.load("run.json")
config.output_dir = "from_python"
rule = halved(share=0.25)
fed = FederatedLearning(config, aggregator=rule, local_workers=0)
fed.setup()
print("listening on", fed.address, flush=True)
fed.train()
print("digest", fed.summary()["digest"])
again = FederatedLearning(config, aggregator=rule, resume=True, local_workers=0)
again.setup()
print("again", again.summary()["digest"])
try:
    FederatedLearning(config, resume=True, local_workers=0).setup()
except Exception as error:
    print("without", error)
"""


def test_only_the_coordinator_imports_it_and_it_decides_the_result(
    finished: Path, federation: Federation, tiny_settings: Callable[..., dict[str, Any]]
) -> None:
    folder = federation.folder
    (folder / "own_halved.py").write_text(MODULE.format(fault="pass"))
    run = federation.fedmq("run", federation.config("own", **tiny_settings(**METHOD)), "--workers", 1)
    assert run.end() == 0, run.output()
    assert (folder / "imported").read_text().split() == [str(run.pid)]
    assert digest_of(folder / "own") != digest_of(finished / "run"), "by the rule alone it is another"


def test_as_an_object_in_a_script_it_gives_the_same(federation: Federation) -> None:
    folder = federation.folder
    (folder / "own_halved.py").write_text(MODULE.format(fault="pass"))
    by_name = federation.coordinator(federation.config("own", **NOOP, federated=FEDERATED | METHOD))
    federation.noop_worker(by_name.address, "w1")
    digest = by_name.ended_well()

    federation.config("run", **NOOP, federated=FEDERATED)
    (folder / "script.py").write_text(SCRIPT)
    script = federation.start(sys.executable, "script.py")
    federation.noop_worker(script.wait_line(r"^listening on (\S+)$")[1], "w2")
    assert script.end() == 0, script.output()
    assert script.wait_line(r"^digest (\w+)$")[1] == digest == script.wait_line(r"^again (\w+)$")[1]
    assert script.wait_line("^without .* holds a run of another config .other: aggregator.: ")


def test_one_that_fails_in_a_round_ends_the_run_and_mended_it_goes_on(federation: Federation) -> None:
    folder = federation.folder
    config = federation.config(**NOOP, federated=FEDERATED | METHOD)
    broken = "if (matrix.last is not None) and Path(__file__).with_name('broken').exists(): raise KeyError('no such')"
    (folder / "own_halved.py").write_text(MODULE.format(fault=broken))
    (folder / "broken").touch()
    first = federation.coordinator(config)
    federation.noop_worker(first.address, "w1")
    assert first.process.end() == 1
    (line,) = first.process.lines["stderr"]
    assert "round 1: the aggregation rule own_halved.halved.<locals>.rule failed: KeyError: 'no such'; nothing" in line
    assert not (folder / "run" / "global_model" / "round_1").exists()

    (folder / "broken").unlink()
    second = federation.coordinator(config, "--resume")
    worker = federation.noop_worker(second.address, "w1")
    digest = second.ended_well()
    assert worker.end() == 0
    metrics = json.loads((folder / "run" / "training_metrics.json").read_text())
    assert [row["round"] for row in metrics["round_metrics"]] == [1, 2]

    whole = federation.coordinator(federation.config("whole", **NOOP, federated=FEDERATED | METHOD))
    federation.noop_worker(whole.address, "w2")
    assert whole.ended_well() == digest


def test_one_that_is_not_there_is_one_line_and_no_run(federation: Federation) -> None:
    config = federation.config(**NOOP, federated=FEDERATED | {"aggregation_method": "own_halved:halved"})
    run = federation.fedmq("coordinator", config, "--bind", "tcp://127.0.0.1:0")
    assert run.end() == 2
    (line,) = run.lines["stderr"]
    assert "own_halved:halved: there is no module own_halved, neither installed nor in " in line
    assert not (federation.folder / "run").exists()


def test_a_rule_that_needs_more_than_comes_fails_the_run_which_goes_on_when_they_come(federation: Federation) -> None:
    """Krum with f 1 needs five updates: the round's quorum, without which it never gets to the rule."""
    clients = [f"client_{k}" for k in range(6)]
    federated = {"num_clients": 6, "clients_per_round": 6, "min_clients": 5, "num_rounds": 2, "save_every": 1}
    config = federation.config(**NOOP, federated=federated | {"aggregation_method": "krum"})
    first = federation.coordinator(config)
    fails = {client: ["no"] * 9 for client in clients[:2]}
    federation.noop_worker(first.address, "w1", clients=clients, fails=fails)
    assert first.process.end() == 1
    (line,) = first.process.lines["stderr"]
    assert "round 1: 4 of 6 updates, the quorum is 5 (client_0: " in line and "--resume goes on with round 1" in line
    kept = Path(federation.folder / "run" / "blobs")
    assert len(list(kept.iterdir())) >= 6, "what was accepted stays"

    second = federation.coordinator(config, "--resume")
    worker = federation.noop_worker(second.address, "w1", clients=clients)
    digest = second.ended_well()
    assert worker.end() == 0
    whole = federation.coordinator(
        federation.config(
            "whole",
            **json.loads(config.read_text())
            | {"output_dir": str(federation.folder / "whole"), "log_dir": str(federation.folder / "whole_logs")},
        )
    )
    federation.noop_worker(whole.address, "w2", clients=clients)
    assert whole.ended_well() == digest
