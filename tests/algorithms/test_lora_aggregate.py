"""Rules for LoRA factors, by algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.lora_aggregate import flexlora, hetlora, lora_fair
from fedmq.algorithms.lora_factors import factors, pairs, relative_bias
from fedmq.algorithms.lora_one_factor import ffa, rolora
from fedmq.tensors import NamedTensors, add, subtract

RULES = {"flexlora": flexlora, "hetlora": hetlora, "lora_fair": lora_fair}
SHAPES = {"m.0": (9, 7), "m.1": (5, 8)}
RANK = 2


def adapter(rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {"m.0.bias": rng.normal(size=3)}
    for module, (d_in, d_out) in SHAPES.items():
        found[f"{module}.lora_A.weight"] = rng.normal(size=(RANK, d_in))
        found[f"{module}.lora_B.weight"] = rng.normal(size=(d_out, RANK))
    return found


def cohort(seed: int, count: int) -> tuple[NamedTensors, list[tuple[float, NamedTensors]]]:
    rng = np.random.default_rng(seed)
    return adapter(rng), [(float(rng.uniform(0.5, 3)), adapter(rng)) for _ in range(count)]


def aggregate(rule: Aggregator, params: NamedTensors, clients: list[tuple[float, NamedTensors]]) -> NamedTensors:
    state = rule.init(params)
    for k, (weight, local) in enumerate(clients):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, subtract(local, params)), weight)
    return add(params, rule.finish(state))


def mean_update(clients: list[tuple[float, NamedTensors]], module: str) -> np.ndarray:
    total = sum(weight for weight, _ in clients)
    a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    return np.asarray(sum(weight / total * local[b] @ local[a] for weight, local in clients))


def product(found: NamedTensors, module: str) -> np.ndarray:
    return found[f"{module}.lora_B.weight"] @ found[f"{module}.lora_A.weight"]


@given(seed=st.integers(0, 999), count=st.integers(2, 6))
def test_flexloras_error_is_the_tail_of_the_singular_values(seed: int, count: int) -> None:
    params, clients = cohort(seed, count)
    found = aggregate(flexlora(), params, clients)
    for module in SHAPES:
        update = mean_update(clients, module)
        tail = np.linalg.svd(update, compute_uv=False)[RANK:]
        assert np.linalg.norm(product(found, module) - update) == pytest.approx(np.linalg.norm(tail), rel=1e-9)


def test_flexloras_factors_share_the_singular_values() -> None:
    params, clients = cohort(1, 4)
    found = aggregate(flexlora(), params, clients)
    for module in SHAPES:
        a, b = found[f"{module}.lora_A.weight"], found[f"{module}.lora_B.weight"]
        np.testing.assert_allclose(a @ a.T, b.T @ b, atol=1e-12)


@given(seed=st.integers(0, 999), count=st.integers(2, 6))
def test_lora_fair_is_nearer_to_the_mean_update_than_averaging(seed: int, count: int) -> None:
    params, clients = cohort(seed, count)
    found, averaged = aggregate(lora_fair(), params, clients), aggregate(fedavg(), params, clients)
    for module in SHAPES:
        update = mean_update(clients, module)
        fair, plain = (np.linalg.norm(product(x, module) - update) for x in (found, averaged))
        assert fair < plain
        np.testing.assert_allclose(found[f"{module}.lora_A.weight"], averaged[f"{module}.lora_A.weight"])


def test_lora_fair_is_the_least_of_its_objective() -> None:
    """|E - dB A'|^2 + lam |dB|^2 grows whichever way dB is moved."""
    lam = 0.5
    params, clients = cohort(2, 4)
    found, averaged = aggregate(lora_fair(lam), params, clients), aggregate(fedavg(), params, clients)
    rng = np.random.default_rng(0)
    for module in SHAPES:
        a, b = (averaged[f"{module}.lora_{x}.weight"] for x in "AB")
        error, best = mean_update(clients, module) - b @ a, found[f"{module}.lora_B.weight"] - b

        def objective(step: np.ndarray, error: np.ndarray = error, a: np.ndarray = a) -> float:
            return float(np.sum((error - step @ a) ** 2) + lam * np.sum(step**2))

        assert all(objective(best) < objective(best + 1e-3 * rng.normal(size=best.shape)) for _ in range(20))


@pytest.mark.parametrize("name", RULES)
def test_one_client_is_taken_as_it_is(name: str) -> None:
    params, clients = cohort(3, 1)
    found = aggregate(RULES[name](), params, clients)
    for module in SHAPES:
        np.testing.assert_allclose(product(found, module), product(clients[0][1], module), atol=1e-12)
    np.testing.assert_allclose(found["m.0.bias"], clients[0][1]["m.0.bias"])


@pytest.mark.parametrize("name", RULES)
def test_identical_clients_leave_no_bias(name: str) -> None:
    params, clients = cohort(4, 1)
    found = aggregate(RULES[name](), params, clients * 3)
    for module in SHAPES:
        np.testing.assert_allclose(product(found, module), product(clients[0][1], module), atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_the_product_does_not_hang_on_the_order_or_the_scale_of_weights(name: str) -> None:
    params, clients = cohort(5, 4)
    found = aggregate(RULES[name](), params, clients)
    other = aggregate(RULES[name](), params, [(8 * weight, local) for weight, local in reversed(clients)])
    for module in SHAPES:
        np.testing.assert_allclose(product(other, module), product(found, module), atol=1e-12)


def test_flexlora_does_not_hang_on_how_a_client_splits_its_product() -> None:
    """(c B, A / c) is the same update."""
    params, clients = cohort(6, 3)
    scaled = [
        (weight, {name: x * (8 if "lora_B" in name else 1 / 8 if "lora_A" in name else 1) for name, x in local.items()})
        for weight, local in clients
    ]
    found, other = (aggregate(flexlora(), params, each) for each in (clients, scaled))
    for module in SHAPES:
        np.testing.assert_allclose(product(other, module), product(found, module), atol=1e-11)


def test_the_bias_that_is_left_is_measured_as_that_of_the_factors() -> None:
    _, clients = cohort(7, 3)
    assert 0 < relative_bias(factors(clients, pair) for pair in pairs(clients[0][1])) < 2


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_none(name: str, weight: float) -> None:
    params, _ = cohort(8, 1)
    rule = RULES[name]()
    with pytest.raises(ValueError, match="weight > 0"):
        rule.fold(rule.init(params), Update("client_0", 0, 1, 1, subtract(params, params)), weight)
    with pytest.raises(ValueError, match="no update"):
        rule.finish(rule.init(params))


@pytest.mark.parametrize("lam", [0.0, -1.0, float("nan")])
def test_lam(lam: float) -> None:
    with pytest.raises(ValueError, match="need lam > 0"):
        lora_fair(lam)


@pytest.mark.parametrize(
    ("rule", "round", "moves"), [(ffa(), 1, "B"), (ffa(), 2, "B"), (rolora(), 1, "B"), (rolora(), 2, "A")]
)
def test_one_factor_moves_and_its_mean_is_exact(rule: Aggregator, round: int, moves: str) -> None:
    """Whatever clients send of the other one."""
    assert rule.trained(round) == moves
    params, clients = cohort(9, 3)
    state = rule.init(params)
    for k, (weight, local) in enumerate(clients):
        state = rule.fold(state, Update(f"client_{k}", round - 1, 1, 1, subtract(local, params)), weight)
    found = add(params, rule.finish(state))
    other = ".lora_A." if moves == "B" else ".lora_B."
    honest = [(w, {n: params[n] if other in n else x for n, x in local.items()}) for w, local in clients]
    for module in SHAPES:
        np.testing.assert_allclose(product(found, module), mean_update(honest, module), atol=1e-12)
    for name, value in params.items():
        assert np.array_equal(found[name], value) is (other in name)


def test_all_others_train_both() -> None:
    assert {rule.trained(r) for rule in (fedavg(), flexlora(), hetlora(), lora_fair()) for r in (1, 2)} == {"both"}
