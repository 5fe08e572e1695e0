"""Dirichlet over classes, both laws: flwr's cuts, unbiased rounding, what alpha does, exact distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import deal, everything, rows

from fedmq.algorithms.partition_labels import dirichlet, draw_classes, split_classes
from fedmq.algorithms.partition_shares import Wanted, label_tv
from fedmq.errors import DataError

#: 600 rows: half A, a third B, a sixth C; and a tenth of them
BRANDS = ["A", "B", "A", "B", "A", "C"] * 100
TRAIN, VAL = rows([0] * 600, brand=BRANDS), rows([0] * 60, brand=BRANDS[:60])
NUMBERS = np.array(["ABC".index(brand) for brand in BRANDS])


@pytest.mark.parametrize(
    ("alpha", "sizes", "sums"),
    [
        (0.3, [58, 43, 105, 94], [3936, 3616, 16995, 20303]),
        (5.0, [83, 71, 75, 71], [3429, 8367, 14403, 18651]),
    ],
)
def test_the_same_cuts_as_the_dirichlet_partitioner_of_flwr(alpha: float, sizes: list[int], sums: list[int]) -> None:
    """flwr-datasets 0.6.1 printed these: DirichletPartitioner(4, "label", alpha, min_partition_size=0,
    self_balancing=False, shuffle=False, seed=42) on the labels i * i % 7 of 300 rows."""
    _, classes = np.unique([i * i % 7 for i in range(300)], return_inverse=True)
    shares = np.random.default_rng(42).dirichlet(np.full(4, alpha), size=4)
    parts = split_classes(classes, shares, None)
    assert [len(part) for part in parts] == sizes
    assert [part.sum() for part in parts] == sums


@given(st.integers(0, 2**32 - 1), st.sampled_from(["per_class", "per_client"]), st.floats(0.05, 1000.0))
def test_all_rows_are_dealt_and_distances_are_those_of_the_parts(seed: int, law: str, alpha: float) -> None:
    try:
        shares = deal(dirichlet(law, alpha), TRAIN, VAL, 4, seed)
    except DataError:
        assert law == "per_class" and alpha < 1
        return
    everything(shares, TRAIN, VAL)
    parts = [share.train for share in shares]
    assert [share.label_tv for share in shares] == label_tv(NUMBERS, parts)
    if law == "per_client":
        assert {len(part) for part in parts} == {150} and {len(share.val) for share in shares} == {15}


@pytest.mark.parametrize("law", ["per_class", "per_client"])
def test_alpha_goes_from_one_class_each_to_iid(law: str) -> None:
    distances = []
    for alpha in (1e-3, 0.3, 3.0, 1e6):
        drawn = [deal(dirichlet(law, alpha), TRAIN, VAL, 2, seed) for seed in range(30)]
        distances.append(np.mean([share.label_tv for shares in drawn for share in shares]))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.05 and distances[0] > 0.3


def test_the_shares_of_per_class_are_dirichlet() -> None:
    """With two clients the share of one in a class is Beta(alpha, alpha), with variance 1 / (4 (2 alpha + 1))."""
    for alpha in (0.5, 2.0):
        found = []
        for seed in range(400):
            first = deal(dirichlet(alpha=alpha), TRAIN, VAL, 2, seed)[0].train
            found.append(np.bincount(NUMBERS[first], minlength=3) / [300, 200, 100])
        assert np.abs(np.mean(found, axis=0) - 0.5).max() < 0.08
        assert np.var(found) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_the_shares_of_per_client_are_dirichlet_around_those_of_all() -> None:
    """q_kc has the mean p_c and the variance p_c (1 - p_c) / (alpha + 1)."""
    alpha, found = 4.0, []
    for seed in range(400):
        shares = deal(dirichlet("per_client", alpha), TRAIN, VAL, 20, seed)
        found += [np.bincount(NUMBERS[share.train], minlength=3) / 30 for share in shares[:1]]
    assert np.mean(found, axis=0) == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=0.05)
    # 30 draws from q add q (1 - q) / 30 on average; that classes run out takes a little away.
    variance = 0.25 / (alpha + 1)
    assert np.var(found, axis=0)[0] == pytest.approx(variance + (0.25 - variance) / 30, rel=0.3)


def test_rounding_favours_nobody() -> None:
    """100 classes of one row each and equal shares: without chance, the last client would get all of them."""
    classes, shares = np.arange(100), np.full((100, 4), 0.25)
    assert [len(part) for part in split_classes(classes, shares, None)] == [0, 0, 0, 100]
    counts = np.sum(
        [[len(p) for p in split_classes(classes, shares, np.random.default_rng(s))] for s in range(100)], axis=0
    )
    # 10,000 rows, a quarter each: within 5 standard deviations of 43.
    assert np.abs(counts - 2500).max() < 217


def test_of_a_class_that_is_used_up_the_others_take_the_place() -> None:
    """All want class 0 only; there are 4 rows of it, and chance decides who gets them."""
    classes = np.array([0] * 4 + [1] * 20)
    wishes = np.array([[1.0, 0.0]] * 3)
    firsts = []
    for seed in range(300):
        parts = draw_classes(classes, wishes, np.random.default_rng(seed))
        assert [len(part) for part in parts] == [8, 8, 8]
        assert sorted(np.concatenate(parts).tolist()) == list(range(24))
        firsts.append([(part < 4).sum() for part in parts])
    assert np.abs(np.mean(firsts, axis=0) - 4 / 3).max() < 0.25, "nobody is served first"


def test_val_rows_have_the_shares_of_the_training_rows() -> None:
    for law in ("per_class", "per_client"):
        for share in deal(dirichlet(law, 0.3), TRAIN, rows([0] * 600, brand=BRANDS), 3):
            trained, held = (np.bincount(NUMBERS[part], minlength=3) for part in (share.train, share.val))
            assert np.abs(trained - held).max() <= (1 if law == "per_class" else 40)


def test_classes_of_the_val_rows_alone() -> None:
    val = rows([0] * 8, brand=["Z"] * 8)
    for law in ("per_class", "per_client"):
        shares = deal(dirichlet(law, 1.0), TRAIN, val, 2)
        assert sum(len(share.val) for share in shares) == 8
        assert min(len(share.val) for share in shares) >= 3


def test_length_bins_have_equally_many_rows() -> None:
    rule = dirichlet(label="length", length_bins=4, alpha=1e6)
    assert rule.needs == ()
    lengths = np.random.default_rng(0).permutation(400).tolist()
    for share in deal(rule, rows(lengths), rows([5, 500]), 2):
        assert np.bincount(np.array(lengths)[share.train] // 100).tolist() == pytest.approx([50] * 4, abs=2)
    one = deal(rule, rows([7] * 10), rows([7, 9]), 2)
    assert [share.label_tv for share in one] == [0.0, 0.0], "one length is one class"


def test_the_fewest_rows_are_waited_for() -> None:
    plain, floor = dirichlet(alpha=0.5), dirichlet(alpha=0.5, min_rows=60)
    smallest = [min(len(share.train) for share in plain.deal(TRAIN, VAL, Wanted(4, seed))) for seed in range(10)]
    assert min(smallest) < 60 < max(smallest)
    for seed, before in enumerate(smallest):
        shares = floor.deal(TRAIN, VAL, Wanted(4, seed))
        assert min(len(share.train) for share in shares) >= 60
        if before >= 60:
            assert [share.train.tolist() for share in shares] == [
                share.train.tolist() for share in plain.deal(TRAIN, VAL, Wanted(4, seed))
            ]
    said = "do not give 4 clients 149 rows each under dirichlet per_class with alpha 0.5, drawn 11 times: lower fed"
    with pytest.raises(DataError, match=said):
        deal(dirichlet(alpha=0.5, min_rows=149), TRAIN, VAL, 4)


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="600 training rows of 3 classes .* do not give 4 clients 151 rows each"):
        deal(dirichlet("per_client", min_rows=151), TRAIN, VAL, 4)
    many = rows([0] * 5000, author=[str(i) for i in range(5000)])
    with pytest.raises(DataError, match=r"over 5000 classes \(label author\) and 5000 clients .* to at most 4000"):
        deal(dirichlet(label="author"), many, rows([], author=[]), 5000)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"law": "hsu"}, "need law per_class or per_client, got 'hsu'"),
        ({"label": "inbound"}, "need label brand or author or length"),
        ({"alpha": 0.0}, "need alpha > 0, got 0.0"),
        ({"length_bins": 5.0}, 'length_bins is of label "length", not of "brand"'),
        ({"label": "length", "length_bins": 1.0}, "need a whole length_bins of at least 2"),
        ({"min_rows": 0.5}, "need a whole min_rows of at least 1"),
    ],
)
def test_options_that_are_none(options: dict[str, float | str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dirichlet(**options)  # type: ignore[arg-type]
