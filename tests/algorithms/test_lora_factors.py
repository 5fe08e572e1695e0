"""The covariance form of the bias, against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.lora_factors import Factors, Pair, factors, mean_factors, pairs, relative_bias, squared_norms


def cohort(seed: int, count: int, rank: int, d_in: int, d_out: int) -> list[Factors]:
    rng = np.random.default_rng(seed)
    return [
        Factors(float(rng.uniform(0.5, 3)), rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank)))
        for _ in range(count)
    ]


def dense(clients: list[Factors]) -> tuple[np.ndarray, np.ndarray]:
    total = sum(client.weight for client in clients)
    update = sum(client.weight / total * client.b @ client.a for client in clients)
    a, b = mean_factors(clients)
    return update - b @ a, np.asarray(update)


@given(
    seed=st.integers(0, 999), count=st.integers(1, 6), rank=st.integers(1, 3), d=st.tuples(*[st.integers(3, 12)] * 2)
)
def test_norms_are_those_of_the_dense_matrices(seed: int, count: int, rank: int, d: tuple[int, int]) -> None:
    """Both ways, by Gram matrices and by the matrix itself: which one is taken hangs on the sizes."""
    clients = cohort(seed, count, rank, *d)
    error, update = dense(clients)
    of_error, of_update = squared_norms(clients)
    assert of_update == pytest.approx(np.sum(update**2), rel=1e-9)
    assert of_error == pytest.approx(np.sum(error**2), rel=1e-9, abs=1e-12 * np.sum(update**2))


def test_both_ways_were_meant() -> None:
    few, many = cohort(1, 2, 2, 9, 7), cohort(1, 6, 2, 9, 7)
    for clients in (few, many):
        assert relative_bias([clients]) == pytest.approx(
            np.linalg.norm(dense(clients)[0]) / np.linalg.norm(dense(clients)[1])
        )


@pytest.mark.parametrize("common", ["a", "b", "both"])
def test_a_common_factor_has_no_bias(common: str) -> None:
    clients = cohort(3, 4, 2, 8, 9)
    same = {name: getattr(clients[0], name) for name in ("a", "b") if common in (name, "both")}
    assert relative_bias([[client._replace(**same) for client in clients]]) < 1e-15


def test_one_client_has_no_bias() -> None:
    assert relative_bias([cohort(4, 1, 2, 8, 9)]) == 0


def test_a_small_bias_is_not_lost_in_rounding() -> None:
    """Drifts of 1e-9: W - B' A' would cancel to noise of 1e-16, the covariance keeps its digits."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 8)), rng.normal(size=(9, 2))
    drifts = [(rng.normal(size=a.shape), rng.normal(size=b.shape)) for _ in range(3)]

    def bias(size: float) -> float:
        return relative_bias([[Factors(1.0, a + size * da, b + size * db) for da, db in drifts]])

    # E is of second order in the drift.
    assert bias(1e-6) == pytest.approx(bias(1e-3) * 1e-6, rel=2e-2)


def test_the_bias_of_modules_is_that_of_one_block_matrix() -> None:
    one, two = cohort(6, 3, 2, 8, 9), cohort(7, 3, 2, 5, 6)
    parts = [dense(clients) for clients in (one, two)]
    error, update = (np.sqrt(sum(np.sum(part[i] ** 2) for part in parts)) for i in (0, 1))
    assert relative_bias([one, two]) == pytest.approx(error / update)


def test_scaling_one_factor_by_c_and_the_other_by_its_inverse_changes_nothing() -> None:
    clients = cohort(8, 4, 2, 8, 9)
    scaled = [client._replace(a=client.a * 8, b=client.b / 8) for client in clients]
    assert relative_bias([scaled]) == pytest.approx(relative_bias([clients]), rel=1e-12)


def test_pairs() -> None:
    """A first adapter comes from a worker: what only looks like factors is no pair, and no error."""
    a, b = np.ones((2, 3)), np.ones((4, 2))
    sound = {f"m.{k}.lora_{x}.weight": value for k in (1, 0) for x, value in (("A", a), ("B", b))}
    odd = {
        "alone.lora_A.weight": a,
        "other.lora_B.weight": b,
        "flat.lora_A.weight": np.ones(2),
        "flat.lora_B.weight": b,
        "ranks.lora_A.weight": np.ones((3, 3)),
        "ranks.lora_B.weight": b,
    }
    assert pairs(sound | odd) == [Pair(f"m.{k}.lora_A.weight", f"m.{k}.lora_B.weight") for k in (0, 1)]


def test_factors_are_float64() -> None:
    pair = Pair("m.lora_A.weight", "m.lora_B.weight")
    (one,) = factors([(2.0, {pair.a: np.ones((1, 2), np.float32), pair.b: np.ones((3, 1), np.float32)})], pair)
    assert (one.weight, one.a.dtype, one.b.dtype) == (2.0, np.float64, np.float64)
