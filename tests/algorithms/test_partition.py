"""Partitions in equal parts: complete, disjoint, seeded; by chance, by chunks of length, by length and noise."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import deal, everything, rows

from fedmq.algorithms.partition import BY_NAME, iid, length, length_order, non_iid
from fedmq.algorithms.partition_shares import Wanted, cut_equally

seeds = st.integers(0, 2**32 - 1)
clients = st.integers(1, 20)
lengths = st.lists(st.integers(1, 280), max_size=300)
EMPTY = rows([])


@pytest.mark.parametrize("name", BY_NAME)
@given(lengths, clients, seeds)
def test_every_partition_that_uses_all_rows_does(name: str, found: list[int], num_clients: int, seed: int) -> None:
    if name in ("by_author", "by_brand"):
        return
    labels = {"brand": ["ABC"[n % 3] for n in found]}
    train, val = (
        rows([*found, *range(num_clients)], brand=[*labels["brand"], *"D" * num_clients]),
        rows(found, **labels),
    )
    # So large an alpha leaves no client without a row.
    options = {"alpha": 1e3} if name == "dirichlet" else {}
    if name == "dirichlet" and len(train.lengths) < 5 * num_clients:
        return
    everything(deal(BY_NAME[name](**options), train, val, num_clients, seed), train, val)


@pytest.mark.parametrize("name", ["iid", "non_iid", "length"])
@given(lengths, clients, seeds)
def test_equal_parts(name: str, found: list[int], num_clients: int, seed: int) -> None:
    shares = deal(BY_NAME[name](), rows(found), rows(found[:7]), num_clients, seed)
    for split in (0, 1):
        sizes = [len(share[split]) for share in shares]
        assert max(sizes) - min(sizes) <= (2 if name == "non_iid" else 1)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_option_that_it_has_not(name: str) -> None:
    assert "sigm" not in signature(BY_NAME[name]).parameters
    with pytest.raises(TypeError, match="sigm"):
        BY_NAME[name](sigm=1.0)


def test_iid_shuffles_by_seed() -> None:
    first, second = (deal(iid(), rows([0] * 1000), EMPTY, 2, seed)[0].train for seed in (1, 2))
    assert first.tolist() != second.tolist()
    # Dealt at random, not cut in the middle.
    assert 400 < first.mean() < 600


def test_non_iid_gives_each_client_two_bands_of_length() -> None:
    found = np.random.default_rng(0).permutation(100)
    for share in deal(non_iid(), rows(found.tolist()), EMPTY, 5):
        assert len(share.train) == 20
        assert len(np.unique(found[share.train] // 10)) == 2


def test_non_iid_keeps_the_order_of_equal_lengths() -> None:
    order = [*range(1, 100, 2), *range(0, 100, 2)]
    bands = [set(order[start : start + 25]) for start in range(0, 100, 25)]
    for share in deal(non_iid(), rows([5, 3] * 50), EMPTY, 2):
        assert sum(band <= set(share.train.tolist()) for band in bands) == 2


def test_non_iid_gives_train_and_val_the_same_bands() -> None:
    for share in deal(non_iid(), rows(list(range(100))), rows(list(range(10))), 5):
        assert np.unique(share.train // 10).tolist() == share.val.tolist()


def test_sigma_1_sorts_by_length_and_0_does_not_look_at_it() -> None:
    found = np.random.default_rng(0).permutation(400)
    shares = deal(length(sigma=1.0), rows(found.tolist()), rows([3, 1, 2, 0]), 4)
    assert [np.sort(found[share.train]).tolist() for share in shares] == np.arange(400).reshape(4, 100).tolist()
    assert [share.val.tolist() for share in shares] == [[3], [1], [2], [0]], "the shortest to the first client"
    shuffled = deal(length(sigma=0.0), rows(found.tolist()), EMPTY, 4)
    assert [s.train.tolist() for s in shuffled] == [
        s.train.tolist() for s in deal(length(sigma=0.0), rows([7] * 400), EMPTY, 4)
    ]


def test_sigma_moves_from_iid_to_sorted() -> None:
    found = np.random.default_rng(0).permutation(4000)
    spreads = []
    for sigma in (0.0, 0.25, 0.5, 0.75, 1.0):
        means = [found[share.train].mean() for share in deal(length(sigma), rows(found.tolist()), EMPTY, 4)]
        spreads.append(max(means) - min(means))
    assert spreads == sorted(spreads)
    # Of 4 equal parts of 0 .. 3999 the first and the last are 3000 apart; at random each mean has a deviation of 36.
    assert spreads[0] < 150 and spreads[-1] == 3000


@pytest.mark.parametrize(
    ("sigma", "sums"),
    [(0.0, [1338, 1401, 1249, 1062]), (0.6, [1238, 1382, 1187, 1243]), (1.0, [1260, 1238, 1233, 1319])],
)
def test_the_same_parts_as_the_continuous_partitioner_of_flwr(sigma: float, sums: list[int]) -> None:
    """flwr-datasets 0.6.1, ContinuousPartitioner(4, "len", strictness=sigma, shuffle=False, seed=42), printed these."""
    found = np.array([(i * 37) % 281 + 3 for i in range(101)])
    parts = cut_equally(length_order(found, sigma, np.random.default_rng(42)), 4)
    assert [len(part) for part in parts] == [26, 25, 25, 25]
    assert [part.sum() for part in parts] == sums


def test_texts_of_one_length_are_dealt_by_chance() -> None:
    shares = deal(length(sigma=1.0), rows([9] * 10), EMPTY, 2)
    assert [share.train.tolist() for share in shares] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], "the order of the file"
    assert length().deal(rows([9] * 10), EMPTY, Wanted(2, 1))[0].train.tolist() != [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sigma", [-0.1, 1.1, float("nan"), "much"])
def test_a_sigma_that_is_none(sigma: object) -> None:
    with pytest.raises(ValueError, match=r"need sigma in \[0, 1\], got"):
        length(sigma=sigma)  # type: ignore[arg-type]
