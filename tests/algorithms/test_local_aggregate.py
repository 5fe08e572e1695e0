"""FedNova, FedDyn, SCAFFOLD: worked numbers, fedavg where steps are equal, and the optimum of the whole objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms import local_methods
from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.local_aggregate import LocalSteps, feddyn, fednova, scaffold

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


def test_feddyn_needs_equal_weights_and_updates() -> None:
    with pytest.raises(ValueError, match="client client_0 weighs 2: in FedDyn all weigh 1"):
        mean(feddyn(EVEN), [[1.0]], [1], [2])
    with pytest.raises(ValueError, match="nothing to average"):
        feddyn(EVEN).finish(feddyn(EVEN).init({"w": np.zeros(1)}))


CURVES, CENTRES = np.array([1.0, 4.0, 0.5, 2.0]), np.array([0.0, 1.0, 8.0, -2.0])
OPTIMUM = float(CURVES @ CENTRES / CURVES.sum())


@pytest.mark.parametrize("per_round", [4, 2])
def test_feddyn_finds_the_optimum_where_fedavg_does_not(per_round: int) -> None:
    """f_k(y) = a_k (y - c_k)^2 / 2, each client going to its very optimum; all of four, or two drawn of them."""
    alpha = 1.0
    rule, method = feddyn(EVEN, alpha), local_methods.feddyn(alpha)
    draw = np.random.default_rng(0)
    x = 0.0
    memories: list[dict[str, np.ndarray]] = [{} for _ in CURVES]
    left: dict[str, np.ndarray] = {}
    for _ in range(300):
        state = rule.init({"w": np.zeros(1)})
        if left:
            assert rule.after is not None
            state = rule.after(state, left)
        chosen = sorted(int(k) for k in draw.choice(4, per_round, replace=False))
        for k in chosen:
            push = float(method.push(memories[k]).get("w", np.zeros(1))[0])
            # The gradient a (y - c) + push + alpha (y - x) is 0 there.
            y = (CURVES[k] * CENTRES[k] + alpha * x - push) / (CURVES[k] + alpha)
            delta = {"w": np.array([y - x])}
            assert method.after is not None
            memories[k] = dict(method.after(memories[k], delta, 1.0))
            state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, delta, 1), 1.0)
        assert rule.left is not None
        left = dict(rule.left(state))
        x += float(rule.finish(state)["w"][0])
    assert x == pytest.approx(OPTIMUM, abs=1e-4)
    assert left["w"] == pytest.approx(np.mean([memory["h:w"] for memory in memories], axis=0), abs=1e-5)
    # The mean of the clients' own optima is elsewhere.
    assert abs(CENTRES.mean() - OPTIMUM) > 1


@pytest.mark.parametrize("per_round", [4, 2])
def test_scaffold_finds_the_optimum_where_fedavg_does_not(per_round: int) -> None:
    """Ten steps a client; all of four, or two drawn of them."""
    steps = LocalSteps(4, 0.1, 0)
    rule, method = scaffold(steps), local_methods.scaffold()
    draw = np.random.default_rng(0)
    memories: list[dict[str, np.ndarray]] = [{} for _ in CURVES]
    left: dict[str, np.ndarray] = {}
    x = plain = 0.0
    rates = steps.learning_rate * steps.rates(10)

    def locally(k: int, start: float, push: float) -> float:
        y = start
        for rate in rates:
            y -= rate * (CURVES[k] * (y - CENTRES[k]) + push)
        return y

    assert rule.after is not None and rule.left is not None and method.after is not None
    for _ in range(400):
        state = rule.init({"w": np.zeros(1)})
        state = rule.after(state, left) if left else state
        control = {f"control:{name}": value for name, value in left.items()}
        for k in sorted(int(k) for k in draw.choice(4, per_round, replace=False)):
            known = {**control, **memories[k]}
            delta = {"w": np.array([locally(k, x, float(np.sum(method.push(known).get("w", 0.0)))) - x])}
            memories[k] = dict(method.after(known, delta, float(rates.sum())))
            state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, delta, 10), 1.0)
        left = dict(rule.left(state))
        x += float(rule.finish(state)["w"][0])
        plain += float(np.mean([locally(k, plain, 0.0) - plain for k in range(4)]))
    assert x == pytest.approx(OPTIMUM, abs=1e-3)
    assert left["w"] == pytest.approx(np.mean([memory["c:w"] for memory in memories], axis=0), abs=1e-3)
    assert abs(plain - OPTIMUM) > 0.05


def test_scaffold_at_rate_0_and_without_steps() -> None:
    rule = scaffold(LocalSteps(4, 0.1, warmup_steps=5))
    state = rule.fold(rule.init({"w": np.zeros(1)}), Update("client_0", 0, 1, 1, {"w": np.zeros(1)}, 1), 1.0)
    assert rule.left is not None and rule.left(state)["w"].tolist() == [0.0]
    with pytest.raises(ValueError, match="number of steps of client client_0, got 0"):
        mean(rule, [[1.0]], [0], [1])
