"""Tasks as a worker gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import adapter, give, started, uploads

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


def test_a_client_is_scored_with_what_it_kept_of_its_last_update_in_that_version(tmp_path: Path) -> None:
    config, server = ExperimentConfig(), started(tmp_path)
    offers = {}
    for round, clients in ((1, ["client_1", "client_2"]), (2, ["client_1"])):
        server.open_round(round, [clients])
        for client in clients:
            offers[round, client] = give(server, f"train-{round}-{client}-0", adapter(round)).blob.digest
        server.aggregate(round, clients)

    def follows(task: str) -> tuple[int, str] | None:
        (made,) = make_tasks([task], config.to_run_spec(), server, "secret").tasks
        return None if made.follows is None else (made.follows.round, made.follows.digest)

    assert follows("evaluate-2-client_1-0") is None, "the model of all is scored as it is"
    config.federated.lora_aggregation = "fedsa"
    assert follows("evaluate-0-client_1-0") is None
    assert follows("evaluate-1-client_1-0") == (1, offers[1, "client_1"])
    assert follows("evaluate-2-client_1-0") == follows("train-3-client_1-0") == (2, offers[2, "client_1"])
    assert follows("evaluate-2-client_2-0") == (1, offers[1, "client_2"])


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
