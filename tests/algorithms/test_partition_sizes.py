"""Unequal sizes: exact sums, the law of the shares, a floor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import deal, rows

from fedmq.algorithms.partition_sizes import quantity
from fedmq.errors import DataError


def sizes(
    count: int, num_clients: int, seed: int = 1, val: int = 0, **options: float | str
) -> tuple[list[int], list[int]]:
    shares = deal(quantity(**options), rows([0] * count), rows([0] * val), num_clients, seed)  # type: ignore[arg-type]
    return [len(share.train) for share in shares], [len(share.val) for share in shares]


@pytest.mark.parametrize(
    ("exponent", "expected"),
    # In proportion to 1, 1/2, 1/3, 1/4 (a sum of 25/12), to 1, 1/4, 1/9, 1/16 (205/144), and equal.
    [(1.0, [480, 240, 160, 120]), (2.0, [702, 176, 78, 44]), (0.0, [250] * 4)],
)
def test_a_power_law(exponent: float, expected: list[int]) -> None:
    # One row each beforehand: 996 are dealt by the law.
    exact = np.arange(1, 5) ** -exponent / (np.arange(1, 5) ** -exponent).sum() * 996 + 1
    found, _ = sizes(1000, 4, law="power", exponent=exponent)
    assert np.abs(np.array(found) - exact).max() < 1 and sum(found) == 1000
    assert np.abs(np.array(found) - expected).max() <= 2


@given(st.integers(20, 500), st.integers(1, 20), st.floats(0.01, 100), st.integers(0, 99))
def test_all_rows_and_the_floor(count: int, num_clients: int, alpha: float, seed: int) -> None:
    fewest = count // num_clients // 2 or 1
    found, held = sizes(count, num_clients, seed, val=37, alpha=alpha, min_rows=fewest)
    assert (sum(found), sum(held)) == (count, 37)
    assert min(found) >= fewest
    quotas = np.array(found) * 37 / count
    assert np.abs(np.array(held) - quotas).max() < 1, "in proportion to the training rows"


def test_the_smaller_alpha_the_more_unequal() -> None:
    """The variance of a share under Dir(alpha, ...) is (1/K)(1 - 1/K) / (K alpha + 1)."""
    for alpha in (0.1, 1.0, 10.0):
        shares = np.array([sizes(1000, 5, seed, alpha=alpha)[0] for seed in range(200)]) / 1000
        expected = 0.2 * 0.8 / (5 * alpha + 1)
        # 1000 dependent shares: within a quarter.
        assert 0.75 < shares.var() / expected < 1.25, alpha


def test_who_gets_which_row_is_chance() -> None:
    share = deal(quantity(law="power", exponent=0.0), rows([0] * 1000), rows([]), 2)[0]
    assert 400 < share.train.mean() < 600


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="19 training rows are too few for 4 clients of at least 5 .* to at most 3, or"):
        sizes(19, 4, min_rows=5)
    assert len(sizes(19, 3, min_rows=5)[0]) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"law": "zipf"}, "need law dirichlet or power, got 'zipf'"),
        ({"law": "power", "alpha": 1.0}, 'alpha is not of law "power"'),
        ({"exponent": 1.0}, 'exponent is not of law "dirichlet"'),
        ({"alpha": 0.0}, "need alpha > 0"),
        ({"law": "power", "exponent": -1.0}, "need exponent >= 0"),
        ({"min_rows": 2.5}, "need a whole min_rows of at least 1"),
        ({"min_rows": 0.0}, "need a whole min_rows of at least 1"),
    ],
)
def test_options_that_are_none(options: dict[str, float | str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quantity(**options)  # type: ignore[arg-type]
