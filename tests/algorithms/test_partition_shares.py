"""Whole parts of a whole, and how far apart classes are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.partition_shares import label_tv, largest_remainder


@given(st.integers(0, 10**7), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20))
def test_largest_remainder_sums_to_the_total_and_stays_within_one_of_each_quota(
    total: int, shares: list[float]
) -> None:
    counts = largest_remainder(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1 + 1e-6


@given(st.integers(0, 3_000_000), st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_largest_remainder_agrees_with_exact_arithmetic(total: int, percents: list[int]) -> None:
    quotas = [Fraction(total * percent, sum(percents)) for percent in percents]
    expected = [int(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda i: expected[i] - quotas[i])
    for i in order[: total - sum(expected)]:
        expected[i] += 1
    assert largest_remainder(total, [percent / 100 for percent in percents]) == expected


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (30, [0.8, 0.1, 0.1], [24, 3, 3]),  # 0.1 * 30 is 3.0000000000000004 in floats
        (100, [0.29, 0.71], [29, 71]),  # 0.29 * 100 is 28.999999999999996
        (5, [0.8, 0.1, 0.1], [4, 1, 0]),  # a tie goes to the first
        (2, [0.7, 0.2, 0.1], [2, 0, 0]),  # a tie of 0.4 with 1.4 - 1, which floats see as less
        (36, [0.85, 0.05, 0.1], [31, 2, 3]),  # 30.6, 1.8 and 3.6: a tie of 0.6 for the second place
        (7, [0.9, 0.1, 0.0], [6, 1, 0]),
        (0, [1, 1], [0, 0]),
    ],
)
def test_largest_remainder_by_hand(total: int, shares: list[float], expected: list[int]) -> None:
    assert largest_remainder(total, shares) == expected


def test_label_tv_by_hand() -> None:
    classes = np.array([0, 0, 0, 1, 1, 2])  # 1/2, 1/3, 1/6
    parts = [np.array([0, 1, 2]), np.array([5]), np.arange(6), np.array([0, 3])]
    assert label_tv(classes, parts) == pytest.approx([1 / 2, 5 / 6, 0, 1 / 6])
