"""Steps and learning rates are those of the Trainer of transformers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.local_aggregate import LocalSteps
from fedmq.learning.fast.schedule import Schedule
from fedmq.recipe import TrainingRecipe


def schedule(count: int, recipe: TrainingRecipe, **changed: object) -> Schedule:
    texts = [np.array([5] * (1 + i % 4) + [0]) for i in range(count)]
    return Schedule([np.array([0]), *texts], replace(recipe, **changed), 7, 3)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 4), st.integers(1, 3))
def test_each_epoch_has_every_text_once(
    recipe: TrainingRecipe, count: int, batch_size: int, every: int, epochs: int
) -> None:
    ours = schedule(count, recipe, batch_size=batch_size, gradient_accumulation_steps=every, num_epochs=epochs)
    steps = list(ours.steps())
    per_epoch = math.ceil(math.ceil(count / batch_size) / every)
    assert len(steps) == ours.num_steps == epochs * per_epoch and ours.steps_per_epoch == per_epoch
    for epoch in range(epochs):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert all(1 <= len(batches) <= every for batches in own)
        assert all(len(batches) == every for batches in own[:-1])
        sizes = [len(batch) for batches in own for batch in batches]
        assert all(size == batch_size for size in sizes[:-1]) and 1 <= sizes[-1] <= batch_size
        # Text 0 has nothing to predict.
        assert sorted(int(i) for batches in own for batch in batches for i in batch) == list(range(1, count + 1))
    assert ours.num_examples == count
    assert ours.num_tokens == epochs * sum(1 + i % 4 for i in range(count))


@given(st.integers(1, 30), st.integers(0, 40))
def test_learning_rates(recipe: TrainingRecipe, count: int, warmup: int) -> None:
    ours = schedule(count, recipe, warmup_steps=warmup, learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, warmup, ours.num_steps)
    for step in range(ours.num_steps):
        assert math.isclose(ours.learning_rate(step), theirs.get_last_lr()[0], rel_tol=1e-12, abs_tol=1e-15)
        optimizer.step()
        theirs.step()


@given(st.integers(1, 30), st.integers(0, 40))
def test_the_coordinator_knows_the_rates(recipe: TrainingRecipe, count: int, warmup: int) -> None:
    ours = schedule(count, recipe, warmup_steps=warmup)
    rates = [ours.learning_rate(step) / recipe.learning_rate for step in range(ours.num_steps)]
    assert LocalSteps(4, recipe.learning_rate, warmup).rates(ours.num_steps) == pytest.approx(rates)
