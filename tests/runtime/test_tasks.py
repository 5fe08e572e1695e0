"""Tasks as a worker gets them."""

from __future__ import annotations

from pathlib import Path

from serving import started

from fedmq.config import ExperimentConfig
from fedmq.runtime.tasks import make_tasks


def test_only_trainings_are_told_how_much_time_is_left(tmp_path: Path) -> None:
    spec, server = ExperimentConfig().to_run_spec(), started(tmp_path)
    assert make_tasks(["train-1-client_1-0"], spec, server, "secret", 12.5).left_s == 12.5
    assert make_tasks(["train-1-client_1-0"], spec, server, "secret", None).left_s is None
    assert make_tasks(["evaluate-0-test-0"], spec, server, "secret", 12.5).left_s is None
