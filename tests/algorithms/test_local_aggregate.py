"""FedNova: worked numbers, fedavg where steps are equal, and the optimum of the whole objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.local_aggregate import LocalSteps, fednova

EVEN = LocalSteps(num_clients=4, learning_rate=0.1, warmup_steps=0)


def mean(rule: Aggregator, deltas: Sequence[object], steps: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    rows = [np.asarray(delta, np.float64) for delta in deltas]
    state = rule.init({"w": np.zeros(rows[0].shape, np.float32)})
    for k, (row, num_steps, weight) in enumerate(zip(rows, steps, weights, strict=True)):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, {"w": row}, num_steps), weight)
    return rule.finish(state)["w"]


@pytest.mark.parametrize(
    ("deltas", "steps", "weights", "expected"),
    [
        # a = 1, 2 (the rates 1, 2/3, 1/3): 1.5 * (4/1 + 6/2) / 2
        ([[4.0], [6.0]], (1, 3), (1, 1), 5.25),
        # weights 3 : 1: 1.25 * (3/4 * 4 + 1/4 * 3)
        ([[4.0], [6.0]], (1, 3), (3, 1), 4.6875),
        # a third that has not moved counts in the mean; a = 1, 2, 2: 5/3 * (4 + 3 + 0) / 3
        ([[4.0], [6.0], [0.0]], (1, 3, 3), (1, 1, 1), 35 / 9),
    ],
)
def test_worked_by_hand(
    deltas: list[list[float]], steps: Sequence[int], weights: Sequence[float], expected: float
) -> None:
    assert mean(fednova(EVEN), deltas, steps, weights) == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize(("num_steps", "momentum"), [(1, 0.0), (6, 0.0), (6, 0.9)])
@pytest.mark.parametrize("warmup", [0, 1, 4, 9])
def test_work_is_what_constant_gradients_move(num_steps: int, momentum: float, warmup: int) -> None:
    steps = LocalSteps(4, 0.1, warmup, momentum=momentum)
    place = buffer = 0.0
    for rate in steps.rates(num_steps):
        buffer = momentum * buffer + 1.0
        place += rate * buffer
    assert steps.work(num_steps) == pytest.approx(place, rel=1e-12)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.01, 1e3)), min_size=1, max_size=6), st.integers(1, 50))
def test_equal_steps_are_fedavg_to_the_bit(clients: list[tuple[float, float]], num_steps: int) -> None:
    deltas, weights = [[delta] for delta, _ in clients], [weight for _, weight in clients]
    steps = [num_steps] * len(clients)
    assert mean(fednova(EVEN), deltas, steps, weights) == mean(fedavg(), deltas, steps, weights)


def test_a_training_whose_every_rate_is_0_moves_nothing() -> None:
    rule = fednova(LocalSteps(4, 0.1, warmup_steps=5))
    assert mean(rule, [[0.0], [3.0]], (1, 2), (1, 1)) == pytest.approx([0.75])
    assert mean(rule, [[0.0], [0.0]], (1, 1), (1, 1)).tolist() == [0.0]


def test_steps_that_are_not_told_are_refused() -> None:
    with pytest.raises(ValueError, match="number of steps of client client_0, got 0"):
        mean(fednova(EVEN), [[1.0]], [0], [1])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_consistent_where_fedavg_is_not(momentum: float) -> None:
    """f_k(y) = (y - c_k)^2 / 2, in 2 and in 40 small steps: the optimum of the mean is the mean of the c_k."""
    centres, taus = np.array([0.0, 10.0]), (2, 40)
    steps = LocalSteps(2, 1e-3, 0, momentum=momentum)

    def rounds(rule: Aggregator) -> float:
        x = 0.0
        for _ in range(2000):
            deltas = []
            for centre, tau in zip(centres, taus, strict=True):
                y, buffer = x, 0.0
                for rate in steps.rates(tau):
                    buffer = momentum * buffer + (y - centre)
                    y -= steps.learning_rate * rate * buffer
                deltas.append([y - x])
            x += float(mean(rule, deltas, taus, (1, 1))[0])
        return x

    assert rounds(fednova(steps)) == pytest.approx(5.0, abs=0.1)
    assert rounds(fedavg()) > 9.0
