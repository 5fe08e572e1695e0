"""What a round comes to, before it: steps and targets as trained, clients and groups as drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.config import get_default_config
from fedmq.learning.fast.schedule import Schedule
from fedmq.planning.drawing import drawn_groups, makespan, training_of
from fedmq.protocol.grouping import Size
from fedmq.protocol.policy import RoundPolicy


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=40), every=st.integers(1, 4), epochs=st.integers(1, 3))
def test_steps_and_targets_are_those_of_a_training(sizes: list[int], every: int, epochs: int) -> None:
    recipe = replace(
        get_default_config().to_run_spec().training,
        num_epochs=epochs,
        gradient_accumulation_steps=every,
        batch_size=5,
    )
    schedule = Schedule([np.arange(size) for size in sizes], recipe, 0, 0)
    found = training_of(Size(len(sizes), sum(sizes)), recipe)
    assert (found.steps, found.num_tokens) == (schedule.num_steps, schedule.num_tokens)


def test_groups_of_all_rounds() -> None:
    sizes = {f"client_{k}": Size(4, 100) for k in range(8)}
    asked = []

    def select(round: int, eligible: object, count: int) -> tuple[str, ...]:
        asked.append((round, count))
        return tuple(sorted(sizes))[:count]

    policy = RoundPolicy(3, cohort=4, quorum=2, over_selection=1.5, clients_per_batch=4)
    rounds = drawn_groups(select, policy, sizes)
    assert asked == [(1, 6), (2, 6), (3, 6)] and [len(group) for group in rounds[0]] == [4, 2]
    assert drawn_groups(select, RoundPolicy(0, 1, 1), sizes) == []


@pytest.mark.parametrize(("tasks", "workers", "span"), [([], 2, 0), ([5], 3, 5), ([2, 2, 2], 1, 6), ([2, 2, 3], 2, 4)])
def test_makespan(tasks: list[float], workers: int, span: float) -> None:
    assert makespan(tasks, workers) == span
