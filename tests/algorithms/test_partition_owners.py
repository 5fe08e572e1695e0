"""A client is an author or a brand: the largest, and small ones put together; clear about too few."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import deal, rows

from fedmq.algorithms.partition_owners import by_author, by_brand, rows_of
from fedmq.algorithms.partition_shares import Share, Wanted
from fedmq.errors import DataError

NOBODY = rows([], author=[], brand=[])
#: a 5, b 3, c 2
TEN = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
#: a 4, and 9 authors with one row each
MANY = ["a"] * 4 + list("bcdefghij")


def dealt(authors: list[str], num_clients: int, min_rows: int, small: str = "leave_out", seed: int = 1) -> list[Share]:
    train = rows([0] * len(authors), author=authors)
    return deal(by_author(small), train, NOBODY, num_clients, seed, min_rows)


def message(authors: list[str], num_clients: int, min_rows: int, small: str = "leave_out") -> str:
    with pytest.raises(DataError) as caught:
        dealt(authors, num_clients, min_rows, small)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.lists(st.sampled_from("abcdefg"), max_size=60), st.integers(1, 4), st.integers(1, 5))
def test_the_most_frequent_are_taken(authors: list[str], num_clients: int, min_rows: int) -> None:
    counts = Counter(authors)
    ranked = sorted((-count, author) for author, count in counts.items() if count >= min_rows)
    if len(ranked) < num_clients:
        message(authors, num_clients, min_rows)
        return
    shares = dealt(authors, num_clients, min_rows)
    assert [share.owner for share in shares] == [author for _, author in ranked[:num_clients]]
    for share in shares:
        assert share.train.tolist() == [i for i, other in enumerate(authors) if other == share.owner]


def test_rows_without_an_owner_are_nobodys() -> None:
    assert [share.owner for share in dealt(["", "", "", "x"], 1, 1)] == ["x"]


def test_val_rows_are_the_owners() -> None:
    train, val = rows([0] * 10, author=TEN), rows([0] * 4, author=["b", "z", "a", "b"])
    shares = by_author().deal(train, val, Wanted(3, 1, 2))
    assert [(share.owner, share.val.tolist()) for share in shares] == [("a", [2]), ("b", [0, 3]), ("c", [])]


def test_a_brand_is_an_owner_too() -> None:
    train = rows([0] * 3, brand=["Acme", "Delta", "Acme"])
    rule = by_brand()
    shares = deal(rule, train, NOBODY, 2)
    assert (rule.needs, rule.owner) == (("brand",), "brand")
    assert [(share.owner, share.train.tolist()) for share in shares] == [("Acme", [0, 2]), ("Delta", [1])]


def test_rows_of_an_absent_owner_are_none() -> None:
    assert [found.tolist() for found in rows_of(["x", "y"], ["z", "y"])] == [[], [1]]


# --- small ones put together


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=80), st.integers(1, 5), st.integers(0, 99))
def test_groups_have_enough_rows_and_nobody_is_in_two(authors: list[str], min_rows: int, seed: int) -> None:
    counts = Counter(authors)
    large = [author for author in counts if counts[author] >= min_rows]
    small = sum(count for author, count in counts.items() if author not in large)
    for num_clients in range(len(large) + small // min_rows, 0, -1):
        try:
            shares = dealt(authors, num_clients, min_rows, "group", seed)
        except DataError:
            # Each group has fewer than min_rows rows before its last author, who has fewer than min_rows.
            assert num_clients > len(large) + small // (2 * min_rows)
            continue
        assert all(len(share.train) >= min_rows for share in shares)
        assert [share.owner for share in shares[: len(large)]] == sorted(large, key=lambda a: (-counts[a], a))[
            :num_clients
        ]
        assert all(share.owner is None for share in shares[len(large) :]) or min_rows == 1
        whole = [{authors[i] for i in share.train} for share in shares]
        assert sum(map(len, whole)) == len(set.union(*whole)), "an author is whole in one client"
        break


def test_what_is_left_over_joins_the_last_group() -> None:
    shares = dealt(MANY, 5, 2, "group")
    assert [len(share.train) for share in shares] == [4, 2, 2, 2, 3]
    # Chance puts them together, by the seed.
    assert shares[1].train.tolist() != dealt(MANY, 5, 2, "group", seed=2)[1].train.tolist()
    assert [share.train.tolist() for share in dealt(MANY, 3, 2, "group")] == [s.train.tolist() for s in shares[:3]]


def test_groups_too_can_be_too_few() -> None:
    text = message(MANY, 6, 2, "group")
    assert "needs 6 authors with at least 2 training rows each, but 1 of 10 authors have that many" in text
    assert "small ones put together make it 5 clients: lower federated.num_clients to at most 5" in text
    assert "all authors together have 13 rows" in text
    assert len(dealt(MANY, 5, 2, "group")) == 5
    assert "lower federated.num_clients to at most" not in message(MANY, 2, 50, "group")


@pytest.mark.parametrize("small", ["groups", "", 3.0])
def test_another_word_for_small(small: str) -> None:
    with pytest.raises(ValueError, match="need small leave_out or group, got"):
        by_brand(small)


# --- too few


def test_too_few_gives_the_numbers_and_two_ways_out() -> None:
    text = message(TEN, 3, 3)
    assert "needs 3 authors with at least 3 training rows each, but 2 of 3 authors" in text
    assert "the largest has 5, number 3 has 2" in text
    assert "federated.min_samples_per_client to at most 2" in text
    assert "federated.num_clients to at most 2" in text
    # Both ways lead out.
    assert len(dealt(TEN, 3, 2)) == 3
    assert len(dealt(TEN, 2, 3)) == 2


def test_more_clients_than_owners_at_all() -> None:
    text = message(TEN, 4, 3)
    assert "num_clients to at most 3 and federated.min_samples_per_client to at most 2" in text
    assert "or lower federated.num_clients to at most 2" in text
    assert len(dealt(TEN, 3, 2)) == 3


def test_no_owner_with_enough_rows_or_no_owner_at_all() -> None:
    text = message(TEN, 2, 100)
    assert "0 of 3 authors" in text
    assert "min_samples_per_client to at most 3" in text
    assert '"iid"' in text and "group" not in text
    assert "no row names its author" in message(["", ""], 2, 1)


def test_where_grouping_helps_it_is_said() -> None:
    text = message(MANY, 3, 3)
    assert text.endswith('put small ones together with federated.distribution_options {"small": "group"}')
    assert len(dealt(MANY, 3, 3, "group")) == 3
