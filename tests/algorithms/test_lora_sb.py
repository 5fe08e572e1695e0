"""Three factors and Fed-SB, by algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.lora_core import folded, is_of, rebased
from fedmq.algorithms.lora_sb import fed_sb
from fedmq.recipe import Factors
from fedmq.tensors import NamedTensors, add, spec, subtract

RANK = 4
#: (d_in, d_out); the last one has a side below the rank
SHAPES = {"m.0": (9, 7), "m.1": (5, 8), "m.2": (3, 6)}


def adapter(rng: np.random.Generator, b: float = 1.0) -> dict[str, np.ndarray]:
    found = {"m.0.bias": rng.normal(size=3)}
    for module, (d_in, d_out) in SHAPES.items():
        found[f"{module}.lora_A.weight"] = rng.normal(size=(RANK, d_in))
        found[f"{module}.lora_B.weight"] = b * rng.normal(size=(d_out, RANK))
        found[f"{module}.lora_R.weight"] = rng.normal(size=(RANK, RANK))
    return {name: value.astype(np.float32) for name, value in found.items()}


def product(found: NamedTensors, module: str) -> np.ndarray:
    b, r, a = (found[f"{module}.lora_{which}.weight"].astype(np.float64) for which in "BRA")
    return np.asarray(b @ r @ a)


def play(params: NamedTensors, clients: list[tuple[float, NamedTensors]], round: int) -> NamedTensors:
    """A round's next adapter, float64, before other factors stand for it."""
    rule = fed_sb()
    state = rule.init(params)
    for k, (weight, local) in enumerate(clients):
        state = rule.fold(state, Update(f"client_{k}", round - 1, 1, 1, subtract(local, params)), weight)
    return add(params, rule.finish(state))


def moved(params: NamedTensors, rng: np.random.Generator, factors: Factors) -> dict[str, np.ndarray]:
    drawn = adapter(rng)
    return {name: drawn[name] if is_of(name, factors) else value for name, value in params.items()}


# --- other factors for the same model --------------------------------------------------------------


@given(st.integers(0, 999), st.sampled_from([0.0, 1e-3, 1.0]))
def test_rebasing_leaves_the_model_as_it_is(seed: int, b: float) -> None:
    before = adapter(np.random.default_rng(seed), b)
    after = rebased(before)
    assert spec(after) == spec(before) and np.array_equal(after["m.0.bias"], before["m.0.bias"])
    for module in SHAPES:
        wanted = product(before, module)
        np.testing.assert_allclose(product(after, module), wanted, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))


@given(st.integers(0, 999), st.integers(0, 4), st.sampled_from([1.0, 5.0]))
def test_the_basis_is_that_of_the_singular_vectors_whatever_the_rank(seed: int, rank: int, gain: float) -> None:
    """A and B of a lower rank than r have a whole basis all the same; a side below r has room for so many only."""
    before = adapter(np.random.default_rng(seed))
    for name in before:
        if name.endswith(".lora_B.weight"):
            before[name][:, rank:] = 0
    after = rebased(before, gain)
    for module, sides in SHAPES.items():
        a, b, r = (after[f"{module}.lora_{which}.weight"] for which in "ABR")
        scale = gain * np.sqrt(sides[1] / (3 * RANK))
        b, r = b / scale, r * scale
        for own, side in ((a @ a.T, sides[0]), (b.T @ b, sides[1])):
            room = np.diag((np.arange(RANK) < side).astype(float))
            np.testing.assert_allclose(own, room, atol=1e-5)
        values = np.linalg.svd(product(before, module), compute_uv=False)[:RANK]
        np.testing.assert_allclose(np.diag(r)[: len(values)], values, rtol=1e-5, atol=1e-5)
        assert not (r - np.diag(np.diag(r))).any() and (np.abs(values) > 1e-5).sum() <= rank


def test_folded_is_the_same_model_by_two_factors() -> None:
    before = adapter(np.random.default_rng(0))
    after = folded(before)
    assert sorted(after) == sorted(name for name in before if ".lora_R." not in name)
    for module in SHAPES:
        a, b = (after[f"{module}.lora_{which}.weight"] for which in "AB")
        assert b.dtype == np.float32
        np.testing.assert_allclose(b @ a, product(before, module), atol=1e-4)
    assert folded(after) is after


# --- the rule --------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 5))
def test_the_mean_gives_the_mean_of_the_products(seed: int, count: int, round: int) -> None:
    """Of whichever factor the round trains; what a client says of the others does not count."""
    rng, factors = np.random.default_rng(seed), fed_sb().trained(round)
    params = adapter(rng)
    weights = rng.uniform(0.5, 3, count)
    clients = [(float(weight), moved(params, rng, factors)) for weight in weights]
    found = play(params, clients, round)
    for module in SHAPES:
        wanted = sum(weight * product(local, module) for weight, local in clients) / weights.sum()
        np.testing.assert_allclose(product(found, module), wanted, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))
    liars = [(weight, adapter(np.random.default_rng(1)) | honest(local, factors)) for weight, local in clients]
    again = play(params, liars, round)
    for name, value in params.items():
        np.testing.assert_allclose(again[name], found[name], atol=1e-12)
        assert is_of(name, factors) or np.array_equal(found[name], value)


def honest(local: NamedTensors, factors: Factors) -> dict[str, np.ndarray]:
    return {name: value for name, value in local.items() if is_of(name, factors)}


@pytest.mark.parametrize("round", [1, 2, 3])
def test_one_client_or_several_alike_are_what_they_trained(round: int) -> None:
    rng = np.random.default_rng(round)
    params = adapter(rng)
    local = moved(params, rng, fed_sb().trained(round))
    for clients in ([(2.0, local)], [(1.0, local), (5.0, local), (0.1, local)]):
        for name, value in play(params, clients, round).items():
            np.testing.assert_allclose(value, local[name], atol=1e-6)


def test_order_and_scale_of_the_weights_do_not_count() -> None:
    rng = np.random.default_rng(0)
    params = adapter(rng)
    clients = [(float(weight), moved(params, rng, "R")) for weight in (1, 2, 5)]
    found = play(params, clients, 3)
    for others in (clients[::-1], [(7 * weight, local) for weight, local in clients]):
        for name, value in play(params, others, 3).items():
            np.testing.assert_allclose(value, found[name], atol=1e-12)


def test_only_after_the_second_round_other_factors_stand_for_the_model() -> None:
    rule, params = fed_sb(), adapter(np.random.default_rng(0))
    assert [rule.trained(round) for round in range(1, 6)] == ["B", "A", "R", "R", "R"]
    assert [rule.rebased(round, params) is not None for round in range(1, 6)] == [False, True, False, False, False]


def test_two_rounds_find_the_range_of_a_gradient_of_low_rank() -> None:
    """Of two long steps along the gradients of <G, B R A>, U and V are G's own, though nobody sends G."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(d, 2)))[0] for d in (30, 40))
    g = u @ np.diag([3.0, 1.0]) @ v.T
    a, b, r = rng.uniform(-0.15, 0.15, (4, 40)), np.zeros((30, 4)), np.eye(4)
    b = b - g @ a.T
    a = a - 100 * b.T @ g
    found = rebased({f"m.lora_{n}.weight": x.astype(np.float32) for n, x in (("A", a), ("B", b), ("R", r))})
    for basis, ours in ((u, found["m.lora_B.weight"][:, :2] / np.sqrt(30 / 12)), (v, found["m.lora_A.weight"][:2].T)):
        np.testing.assert_allclose(np.linalg.svd(basis.T @ ours, compute_uv=False), 1.0, atol=0.02)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_gain(gain: float) -> None:
    with pytest.raises(ValueError, match="need gain > 0"):
        fed_sb(gain)


def test_r_is_the_shorter_the_larger_the_gain() -> None:
    params = adapter(np.random.default_rng(0))
    plain, longer = (fed_sb(gain).rebased(2, params) for gain in (1.0, 4.0))
    assert plain is not None and longer is not None
    for module in SHAPES:
        name = f"{module}.lora_R.weight"
        np.testing.assert_allclose(4 * longer[name], plain[name], rtol=1e-6)
