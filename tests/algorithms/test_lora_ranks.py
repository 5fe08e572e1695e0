"""FlexLoRA, FLoRA and HetLoRA with clients of different ranks, and HetLoRA's weights, by algebra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.lora_aggregate import flexlora, hetlora
from fedmq.algorithms.lora_exact import flora
from fedmq.algorithms.lora_factors import Factors, factors, pairs, product_norm
from fedmq.codec.part import start
from fedmq.recipe import Part
from fedmq.tensors import NamedTensors, add, subtract

SHAPES = {"m.0": (9, 7), "m.1": (6, 8)}
BIAS, RANK = "m.0.bias", 4


def adapter(rng: np.random.Generator, rank: int | None = None) -> NamedTensors:
    """Of rank RANK, with zeros beyond `rank`."""
    found = {BIAS: rng.normal(size=3)}
    for module, (d_in, d_out) in SHAPES.items():
        found[f"{module}.lora_A.weight"] = rng.normal(size=(RANK, d_in))
        found[f"{module}.lora_B.weight"] = rng.normal(size=(d_out, RANK))
    return start(Part("both", rank), found)


def cohort(seed: int, ranks: Sequence[int | None]) -> tuple[NamedTensors, list[NamedTensors]]:
    rng = np.random.default_rng(seed)
    return adapter(rng), [adapter(rng, rank) for rank in ranks]


def aggregate(
    rule: Aggregator, params: NamedTensors, clients: Sequence[NamedTensors], weights: Sequence[float] = ()
) -> NamedTensors:
    state = rule.init(params)
    for k, local in enumerate(clients):
        weight = weights[k] if weights else 1.0
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, subtract(local, params)), weight)
    return add(params, rule.finish(state))


def product(found: NamedTensors, module: str) -> np.ndarray:
    return found[f"{module}.lora_B.weight"] @ found[f"{module}.lora_A.weight"]


def norm(local: NamedTensors) -> float:
    return float(np.sqrt(sum(np.sum(product(local, module) ** 2) for module in SHAPES)))


def shares(clients: Sequence[NamedTensors], weights: Sequence[float] = ()) -> np.ndarray:
    """HetLoRA's p_k, as seen in a tensor of which each client has a column of its own."""
    found = []
    for k in range(len(clients)):
        marked = [{**local, BIAS: np.full(3, float(k == other))} for other, local in enumerate(clients)]
        found.append(aggregate(hetlora(), marked[0], marked, weights)[BIAS][0])
    return np.array(found)


# --- FlexLoRA --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), ranks=st.lists(st.integers(1, RANK), min_size=1, max_size=5))
def test_flexlora_gives_each_client_the_best_of_its_rank(seed: int, ranks: list[int]) -> None:
    """Of the next factors the first r_k rows and columns are the best of rank r_k: the error is the tail."""
    params, clients = cohort(seed, ranks)
    found = aggregate(flexlora(), params, clients)
    for module in SHAPES:
        update = np.mean([product(local, module) for local in clients], axis=0)
        values = np.linalg.svd(update, compute_uv=False)
        for rank in range(1, RANK + 1):
            error = np.linalg.norm(product(start(Part("both", rank), found), module) - update)
            assert error == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-8, abs=1e-9)


def test_flexlora_of_one_small_client_is_that_client() -> None:
    params, clients = cohort(1, [2])
    found = aggregate(flexlora(), params, clients)
    for module in SHAPES:
        np.testing.assert_allclose(product(found, module), product(clients[0], module), atol=1e-12)
        np.testing.assert_allclose(product(start(Part("both", 2), found), module), product(found, module), atol=1e-7)


def test_flora_merges_all_that_clients_of_any_rank_learnt() -> None:
    params, clients = cohort(2, [1, 3, None])
    rule, weights = flora(seed=5), np.array([1.0, 2.0, 1.0])
    state = rule.init(params)
    for k, local in enumerate(clients):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, subtract(local, params)), weights[k])
    assert rule.merged is not None
    merged, after = rule.merged(state), add(params, rule.finish(state))
    for module in SHAPES:
        update = sum(w / 4 * product(local, module) for w, local in zip(weights, clients, strict=True))
        np.testing.assert_allclose(product(merged, module), update, atol=1e-5)
        assert not product(after, module).any()


# --- HetLoRA ---------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), ranks=st.lists(st.sampled_from([1, 2, 3, None]), min_size=1, max_size=5))
def test_hetloras_weights_are_the_norms_of_the_products(seed: int, ranks: list[int | None]) -> None:
    params, clients = cohort(seed, ranks)
    norms = np.array([norm(local) for local in clients])
    assert shares(clients) == pytest.approx(norms / norms.sum()) and shares(clients).sum() == pytest.approx(1)
    found = aggregate(hetlora(), params, clients)
    for name in params:
        expected = sum(p * local[name] for p, local in zip(norms / norms.sum(), clients, strict=True))
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


def test_hetlora_worked_by_hand() -> None:
    """Products of norm 3 and 1, the second of rank 1: weights 3/4 and 1/4; padding adds nothing."""
    a, b = "m.lora_A.weight", "m.lora_B.weight"
    params = {a: np.full((2, 1), 9.0), b: np.zeros((1, 2))}
    large = {a: np.array([[1.0], [2.0]]), b: np.array([[1.0, 1.0]])}
    small = {a: np.array([[0.5], [0.0]]), b: np.array([[2.0, 0.0]])}
    found = aggregate(hetlora(), params, [large, small])
    np.testing.assert_allclose(found[a], [[0.875], [1.5]])
    np.testing.assert_allclose(found[b], [[1.25, 0.75]])


def test_hetlora_weighs_by_the_weights_too() -> None:
    _, clients = cohort(3, [1, None, 2])
    weighted = np.array([1.0, 5.0, 2.0]) * [norm(local) for local in clients]
    assert shares(clients, [1.0, 5.0, 2.0]) == pytest.approx(weighted / weighted.sum())


def test_with_equal_norms_hetlora_is_the_mean() -> None:
    """Also where nobody has learnt anything: B is 0 in a first adapter."""
    params, clients = cohort(4, [None] * 4)
    first = [{n: np.zeros_like(x) if "lora_B" in n else x for n, x in local.items()} for local in clients]
    equal = [{n: x / norm(local) if "lora_B" in n else x for n, x in local.items()} for local in clients]
    for same in (first, equal):
        found, mean = (aggregate(rule, params, same, [1.0, 3.0, 2.0, 1.0]) for rule in (hetlora(), fedavg()))
        for name in params:
            np.testing.assert_allclose(found[name], mean[name], rtol=1e-9, atol=1e-12)


def test_who_learnt_nothing_beside_others_does_not_count() -> None:
    _, clients = cohort(5, [None, None])
    idle = {n: np.zeros_like(x) if "lora_B" in n else x for n, x in clients[0].items()}
    assert shares([idle, clients[1]]) == pytest.approx([0, 1], abs=1e-25)


def test_hetloras_weights_do_not_hang_on_how_a_client_splits_its_product() -> None:
    """(c B, A / c) is the same update."""
    _, clients = cohort(6, [1, None, 3])
    scaled = {n: x * (8 if "lora_B" in n else 1 / 8 if "lora_A" in n else 1) for n, x in clients[1].items()}
    np.testing.assert_allclose(shares([clients[0], scaled, clients[2]]), shares(clients), rtol=1e-12)


def test_the_norm_is_that_of_the_products() -> None:
    _, clients = cohort(7, [3])
    found = product_norm(f for pair in pairs(clients[0]) for f in factors([(5.0, clients[0])], pair))
    assert found == pytest.approx(norm(clients[0]), rel=1e-12)
    assert product_norm([Factors(1.0, np.zeros((1, 2)), np.ones((2, 1)))]) == product_norm([]) == 0
