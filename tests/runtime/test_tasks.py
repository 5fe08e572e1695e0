"""Tasks as a worker gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import started, uploads

from fedmq import build
from fedmq.config import ExperimentConfig
from fedmq.protocol.work import TrainWork
from fedmq.recipe import Part
from fedmq.runtime.tasks import make_tasks
from fedmq.runtime.uploads import Uploads


def test_only_trainings_are_told_how_much_time_is_left(tmp_path: Path) -> None:
    spec, server = ExperimentConfig().to_run_spec(), started(tmp_path)
    assert make_tasks(["train-1-client_1-0"], spec, server, "secret", 12.5).left_s == 12.5
    assert make_tasks(["train-1-client_1-0"], spec, server, "secret", None).left_s is None
    assert make_tasks(["evaluate-0-test-0"], spec, server, "secret", 12.5).left_s is None


@pytest.mark.parametrize(
    ("name", "factors"),
    [("fedit", ["both", "both"]), ("ffa", ["B", "B"]), ("rolora", ["B", "A"]), ("flexlora", ["both"] * 2)],
)
def test_the_aggregation_says_which_factors_are_trained(tmp_path: Path, name: str, factors: list[str]) -> None:
    rule = build.lora_aggregator(name)
    server = started(tmp_path, aggregator=rule, uploads=Uploads(uploads("fp32").codec, rule.trained, {}))
    server.open_round(1, [["client_1"]])
    server.journal.freeze_round(1, [])
    server.journal.commit_round(1, server.adapter(0).digest)
    found = []
    for round in (1, 2):
        (task,) = make_tasks([f"train-{round}-client_1-0"], ExperimentConfig().to_run_spec(), server, "secret").tasks
        assert isinstance(task.work, TrainWork)
        assert task.work.part == Part(task.work.recipe.factors, None), "what is trained is what is sent"
        found.append(task.work.recipe.factors)
    assert found == factors
