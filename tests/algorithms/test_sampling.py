"""Uniform selection: the same for the same set, without replacement, and uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.sampling import uniform
from fedmq.rng import derive

CLIENTS = [f"client_{k}" for k in range(10)]


def test_same_seed_same_clients() -> None:
    first = [uniform(CLIENTS, 3, derive(42, "select", round)) for round in range(20)]
    assert first == [uniform(CLIENTS, 3, derive(42, "select", round)) for round in range(20)]
    assert len({tuple(chosen) for chosen in first}) > 10, "every round draws anew"


@given(st.permutations(CLIENTS), st.integers(1, 10))
def test_the_draw_depends_on_the_set_only(order: list[str], count: int) -> None:
    chosen = uniform(order, count, derive(1, "select"))
    assert chosen == uniform(CLIENTS, count, derive(1, "select"))
    assert chosen == sorted(set(chosen)) and len(chosen) == count and set(chosen) <= set(CLIENTS)


def test_every_client_and_every_pair_is_equally_likely() -> None:
    draws = 4000
    singles = dict.fromkeys(CLIENTS, 0)
    pairs: dict[tuple[str, str], int] = {}
    for round in range(draws):
        chosen = uniform(CLIENTS, 3, derive(7, "select", round))
        for i, a in enumerate(chosen):
            singles[a] += 1
            for b in chosen[i + 1 :]:
                pairs[a, b] = pairs.get((a, b), 0) + 1
    # p = 3/10 and 3*2/(10*9); 5 standard deviations of a binomial.
    for counts, p, number in ((singles, 0.3, 10), (pairs, 1 / 15, 45)):
        deviation = 5 * np.sqrt(draws * p * (1 - p))
        assert len(counts) == number
        assert all(abs(n - draws * p) < deviation for n in counts.values())


@pytest.mark.parametrize("count", [0, -1, 11])
def test_an_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot choose {count} of 10 clients"):
        uniform(CLIENTS, count, derive(1, "select"))
