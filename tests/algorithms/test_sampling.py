"""Selection: uniform, in turn, and by size without bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.candidates import Candidate, Draw
from fedmq.algorithms.sampling import BY_NAME, round_robin, systematic, uniform, weighted
from fedmq.rng import derive

POOL = [Candidate(f"client_{k}") for k in range(10)]
#: of one that is too large for a draw by chance, many of one size, and odd ones
SIZES = [900.0, 40.0, 40.0, 40.0, 25.0, 7.0, 3.0, 1.0]
SKEWED = [Candidate(f"client_{k}", weight=size, num_examples=int(size)) for k, size in enumerate(SIZES)]


def draw(count: int, round: int = 1, seed: int = 42, attempt: int = 0) -> Draw:
    return Draw(round, count, derive(seed, "select", round), attempt)


@pytest.mark.parametrize("name", BY_NAME)
@given(st.data())
def test_every_rule_draws_so_many_and_the_same_again(name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 10))
    past = st.none() | st.tuples(st.integers(1, 5), st.floats(-1.0, 1e300), st.floats(0, 1e6))
    pool = []
    for one in POOL:
        size, last = data.draw(st.integers(1, 10**6)), data.draw(past)
        known = Candidate(one.client_id, float(size), size)
        pool.append(known if last is None else Candidate(*known[:4], (last[0],), *last))
    chosen = BY_NAME[name]()(pool, draw(count, round=6))
    assert len(chosen) == len(set(chosen)) == count
    assert set(chosen) <= {one.client_id for one in pool}
    assert chosen == BY_NAME[name]()(pool, draw(count, round=6))


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("count", [0, -1, 11])
def test_an_impossible_count_is_refused(name: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot choose {count} of 10 clients"):
        BY_NAME[name]()(POOL, draw(count))


# --- uniform


def test_every_client_and_every_pair_is_equally_likely() -> None:
    draws = 4000
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for round in range(draws):
        chosen = list(uniform()(POOL, draw(3, round, seed=7)))
        singles.update(chosen)
        pairs.update((a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :])
    # p = 3/10 and 3*2/(10*9); 5 standard deviations of a binomial.
    for counts, p, number in ((singles, 0.3, 10), (pairs, 1 / 15, 45)):
        deviation = 5 * np.sqrt(draws * p * (1 - p))
        assert len(counts) == number
        assert all(abs(n - draws * p) < deviation for n in counts.values())


# --- in turn


@given(st.integers(1, 10), st.integers(1, 10))
def test_all_have_their_turn_before_anybody_has_another(count: int, clients: int) -> None:
    count = min(count, clients)
    pool = POOL[:clients]
    for round in range(1, 30):
        chosen = round_robin()(pool, draw(count, round))
        pool = [one._replace(selected=(round, *one.selected)) if one.client_id in chosen else one for one in pool]
        turns = [len(one.selected) for one in pool]
        assert max(turns) - min(turns) <= 1


def test_who_comes_late_has_a_turn_at_once_and_no_more_than_the_others() -> None:
    pool = [Candidate(f"client_{k}", selected=tuple(range(100 - k, 0, -3))) for k in range(3)]
    for round in range(101, 109):
        chosen = round_robin()(pool, draw(1, round))
        pool = [one._replace(selected=(round, *one.selected)) if one.client_id in chosen else one for one in pool]
        if round == 101:
            pool.append(Candidate("client_9"))
    assert [sum(at > 100 for at in one.selected) for one in pool] == [2, 2, 2, 2]


def test_a_round_that_is_drawn_anew_goes_on() -> None:
    chosen = [list(round_robin()(POOL, draw(4, attempt=attempt))) for attempt in range(3)]
    assert [name for names in chosen for name in names] == [f"client_{k % 10}" for k in range(12)]


# --- by size


def mean(chosen: Mapping[str, float], deltas: dict[str, Fraction]) -> Fraction:
    """What the server makes of it: the weighted mean of the deltas."""
    total = sum(Fraction(weight) for weight in chosen.values())
    return sum(Fraction(weight) * deltas[client] for client, weight in chosen.items()) / total


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(-9, 9)), min_size=1, max_size=8), st.data())
def test_the_mean_of_a_draw_by_size_is_unbiased(clients: list[tuple[int, int]], data: st.DataObject) -> None:
    """Exactly: over all starts, in whatever order the clients lie, it is sum_k n_k D_k / sum_k n_k."""
    count = data.draw(st.integers(1, len(clients)))
    weights = [Fraction(size) for size, _ in clients]
    certain = [i for i, weight in systematic(weights, count, Fraction(0)).items() if weight == weights[i]]
    # Borders between clients are at whole numbers, so within such parts of a step the same clients are found.
    parts = int(sum(weight for i, weight in enumerate(weights) if i not in certain)) or 1
    means, seen = [], Counter[int]()
    for part in range(parts):
        found = systematic(weights, count, (part + Fraction(1, 2)) / parts)
        assert len(found) == count and sum(found.values()) == sum(weights), "any draw stands for all"
        means.append(sum(weight * clients[i][1] for i, weight in found.items()) / sum(weights))
        seen.update(list(found))
    assert sum(means) / parts == sum(w * clients[i][1] for i, w in enumerate(weights)) / sum(weights)
    for i, weight in enumerate(weights):
        likely = 1 if i in certain else weight * (count - len(certain)) / parts
        assert Fraction(seen[i], parts) == likely


def test_weights_of_a_draw_are_unbiased_and_nobody_counts_twice_by_size() -> None:
    """By chance too: with n_k-weights on top of draws by size, the mean would be 38 standard deviations off."""
    deltas = {one.client_id: Fraction(k * k) for k, one in enumerate(SKEWED)}
    truth = float(mean({one.client_id: one.weight for one in SKEWED}, deltas))
    draws, right, twice = 2000, [], []
    for round in range(draws):
        chosen = weighted()(SKEWED, draw(3, round))
        assert isinstance(chosen, Mapping) and list(chosen) == sorted(chosen)
        assert sum(chosen.values()) == pytest.approx(sum(SIZES)), "any draw stands for all"
        assert chosen["client_0"] == 900.0, "too large to be left to chance"
        right.append(float(mean(chosen, deltas)))
        sizes = {one.client_id: one.weight for one in SKEWED if one.client_id in chosen}
        twice.append(float(mean(sizes, deltas)))
    error = np.std(right) / np.sqrt(draws)
    assert abs(np.mean(right) - truth) < 4 * error
    assert abs(np.mean(twice) - truth) > 20 * error


def test_the_probabilities_of_a_draw_by_size() -> None:
    draws, seen = 3000, Counter[str]()
    for round in range(draws):
        seen.update(list(weighted()(SKEWED, draw(3, round))))
    # Two of the seven others, in proportion: 2 * 40 / 156 and so on.
    for one in SKEWED[1:]:
        p = 2 * one.weight / sum(SIZES[1:])
        assert abs(seen[one.client_id] - draws * p) < 5 * np.sqrt(draws * p * (1 - p)) + 1e-9, one
    assert seen["client_0"] == draws


def test_with_equal_weights_all_pairs_occur() -> None:
    pairs = Counter(tuple(weighted()(POOL, draw(2, round))) for round in range(2000))
    assert len(pairs) == 45 and min(pairs.values()) > 15


def test_all_of_them_count_what_they_weigh() -> None:
    assert weighted()(SKEWED, draw(8)) == {one.client_id: one.weight for one in SKEWED}
