"""FedEx-LoRA and FLoRA: what is merged and what is left make up the mean of the clients' models."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.lora_exact import fedex, flora
from fedmq.tensors import NamedTensors, add, subtract

A, B = "h.0.lora_A.weight", "h.0.lora_B.weight"
OTHER = "h.0.bias"


def adapters(count: int, seed: int = 0, rank: int = 2) -> tuple[NamedTensors, list[NamedTensors], np.ndarray]:
    """A global adapter, what clients made of it, and their weights."""
    rng = np.random.default_rng(seed)

    def one() -> NamedTensors:
        shapes = {A: (rank, 6), B: (5, rank), OTHER: (3,)}
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    return one(), [one() for _ in range(count)], rng.uniform(1, 5, count)


def run(
    rule: Aggregator, base: NamedTensors, clients: list[NamedTensors], weights: np.ndarray
) -> tuple[NamedTensors, ...]:
    """(what is merged, the next adapter)."""
    state = rule.init(base)
    for k, (client, weight) in enumerate(zip(clients, weights, strict=True)):
        state = rule.fold(state, Update(f"client_{k}", 3, 1, 1, subtract(client, base)), float(weight))
    assert rule.merged is not None
    merged = rule.merged(state)
    return merged, add(base, rule.finish(state))


def product(tensors: NamedTensors) -> np.ndarray:
    return np.asarray(tensors[B], np.float64) @ tensors[A] if B in tensors else np.zeros((5, 6))


def mean_product(clients: list[NamedTensors], weights: np.ndarray) -> np.ndarray:
    return np.asarray(sum(w * product(x) for w, x in zip(weights / weights.sum(), clients, strict=True)))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("rule", [fedex(), flora()], ids=["fedex", "flora"])
def test_merged_and_left_are_the_mean_of_the_clients_models(rule: Aggregator, count: int) -> None:
    base, clients, weights = adapters(count)
    merged, after = run(rule, base, clients, weights)
    wanted = mean_product(clients, weights)
    assert np.linalg.norm(product(merged) + product(after) - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert after[OTHER] == pytest.approx(
        sum(w * x[OTHER] for w, x in zip(weights / weights.sum(), clients, strict=True))
    )


def test_fedex_leaves_the_factors_that_fedit_does() -> None:
    base, clients, weights = adapters(4)
    rule = fedavg()
    state = rule.init(base)
    for k, (client, weight) in enumerate(zip(clients, weights, strict=True)):
        state = rule.fold(state, Update(f"client_{k}", 3, 1, 1, subtract(client, base)), float(weight))
    plain = add(base, rule.finish(state))
    _, after = run(fedex(), base, clients, weights)
    for name, value in plain.items():
        assert after[name] == pytest.approx(value, rel=1e-6), name


def test_the_residual_of_n_clients_has_rank_n_minus_1_times_r() -> None:
    base, clients, weights = adapters(2)
    merged, _ = run(fedex(), base, clients, weights)
    assert merged[A].shape == (2, 6) and merged[B].shape == (5, 2)
    assert merged[A].dtype == merged[B].dtype == np.float32


def test_one_client_or_identical_ones_leave_no_residual() -> None:
    base, clients, weights = adapters(3)
    assert run(fedex(), base, clients[:1], weights[:1])[0] == {}
    assert run(fedex(), base, [clients[0]] * 3, weights)[0] == {}


def test_a_common_factor_leaves_no_residual() -> None:
    """As under FFA-LoRA, whose mean is exact."""
    base, clients, weights = adapters(3)
    assert run(fedex(), base, [{**client, A: clients[0][A]} for client in clients], weights)[0] == {}


@pytest.mark.parametrize("rule", [fedex(), flora()], ids=["fedex", "flora"])
def test_the_order_of_clients_and_the_scale_of_their_factors_change_nothing(rule: Aggregator) -> None:
    base, clients, weights = adapters(3)
    merged, after = run(rule, base, clients, weights)
    again, later = run(rule, base, clients[::-1], weights[::-1])
    assert product(again) + product(later) == pytest.approx(product(merged) + product(after), abs=1e-6)
    scaled = [{**x, A: x[A] / np.float32(4), B: x[B] * np.float32(4)} for x in clients]
    again, later = run(rule, base, scaled, weights)
    assert product(again) + product(later) == pytest.approx(product(merged) + product(after), abs=1e-6)


def test_flora_begins_anew_with_another_a_in_each_round() -> None:
    base, clients, weights = adapters(2)
    _, after = run(flora(seed=7), base, clients, weights)
    assert not after[B].any()
    assert np.abs(after[A]).max() <= 6**-0.5 and len(np.unique(after[A].astype(np.float32))) == after[A].size
    assert run(flora(seed=7), base, clients[::-1], weights)[1][A].tolist() == after[A].tolist()
    assert run(flora(seed=8), base, clients, weights)[1][A].tolist() != after[A].tolist()
