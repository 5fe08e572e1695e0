"""Partitions: complete, disjoint, seeded, and clear about too few authors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.partition import by_author, iid, largest_remainder, non_iid, rows_of
from fedmq.errors import DataError

seeds = st.integers(0, 2**32 - 1)
clients = st.integers(1, 20)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


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


@given(st.integers(0, 300), clients, seeds)
def test_iid_is_complete_disjoint_equal_and_deterministic(num_rows: int, num_clients: int, seed: int) -> None:
    parts = iid(num_rows, num_clients, rng(seed))
    assert len(parts) == num_clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_rows))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    again = iid(num_rows, num_clients, rng(seed))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_iid_shuffles_by_seed() -> None:
    first, second = iid(1000, 2, rng(1))[0], iid(1000, 2, rng(2))[0]
    assert first.tolist() != second.tolist()
    # Dealt at random, not cut in the middle.
    assert 400 < first.mean() < 600


@given(st.lists(st.integers(1, 280), max_size=300), clients, seeds)
def test_non_iid_is_complete_disjoint_and_deterministic(lengths: list[int], num_clients: int, seed: int) -> None:
    parts = non_iid(np.array(lengths, np.int64), num_clients, rng(seed))
    assert len(parts) == num_clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2
    again = non_iid(np.array(lengths, np.int64), num_clients, rng(seed))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_non_iid_gives_each_client_two_bands_of_length() -> None:
    lengths = rng(0).permutation(100)
    for part in non_iid(lengths, 5, rng(3)):
        bands = np.unique(lengths[part] // 10)
        assert len(part) == 20
        assert len(bands) == 2


def test_non_iid_keeps_the_order_of_equal_lengths() -> None:
    lengths = np.tile([5, 3], 50)
    order = [*range(1, 100, 2), *range(0, 100, 2)]
    bands = [set(order[start : start + 25]) for start in range(0, 100, 25)]
    for part in non_iid(lengths, 2, rng(0)):
        assert sum(band <= set(part.tolist()) for band in bands) == 2


def test_non_iid_gives_train_and_val_the_same_bands() -> None:
    train, val = non_iid(np.arange(100), 5, rng(3)), non_iid(np.arange(10), 5, rng(3))
    for a, b in zip(train, val, strict=True):
        assert np.unique(a // 10).tolist() == b.tolist()


@given(st.lists(st.sampled_from("abcdefg"), max_size=60), st.integers(1, 4), st.integers(1, 5))
def test_by_author_takes_the_most_frequent(authors: list[str], num_clients: int, min_samples: int) -> None:
    counts = {author: authors.count(author) for author in authors}
    ranked = sorted((-count, author) for author, count in counts.items() if count >= min_samples)
    if len(ranked) < num_clients:
        with pytest.raises(DataError):
            by_author(authors, num_clients, min_samples)
        return
    chosen = by_author(authors, num_clients, min_samples)
    assert [author for author, _ in chosen] == [author for _, author in ranked[:num_clients]]
    for author, rows in chosen:
        assert rows.tolist() == [i for i, other in enumerate(authors) if other == author]


def test_by_author_ignores_rows_without_an_author() -> None:
    assert [author for author, _ in by_author(["", "", "", "x"], 1, 1)] == ["x"]


def test_rows_of_an_absent_author_are_none() -> None:
    assert [rows.tolist() for rows in rows_of(["x", "y"], ["z", "y"])] == [[], [1]]


TEN = ["a"] * 5 + ["b"] * 3 + ["c"] * 2


def message(authors: list[str], num_clients: int, min_samples: int) -> str:
    with pytest.raises(DataError) as caught:
        by_author(authors, num_clients, min_samples)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_few_authors_gives_the_numbers_and_two_ways_out() -> None:
    text = message(TEN, 3, 3)
    assert "needs 3 authors with at least 3 training rows each, but 2 of 3 authors" in text
    assert "the largest has 5, number 3 has 2" in text
    assert "federated.min_samples_per_client to at most 2" in text
    assert "federated.num_clients to at most 2" in text
    # Both ways lead out.
    assert len(by_author(TEN, 3, 2)) == 3
    assert len(by_author(TEN, 2, 3)) == 2


def test_more_clients_than_authors_at_all() -> None:
    text = message(TEN, 4, 3)
    assert "num_clients to at most 3 and federated.min_samples_per_client to at most 2" in text
    assert "or lower federated.num_clients to at most 2" in text
    assert len(by_author(TEN, 3, 2)) == 3


def test_no_author_with_enough_rows_or_no_author_at_all() -> None:
    text = message(TEN, 2, 100)
    assert "0 of 3 authors" in text
    assert "min_samples_per_client to at most 3" in text
    assert '"iid"' in text
    assert "no row names its author" in message(["", ""], 2, 1)
