"""Robust rules: worked numbers, what they promise, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq import build
from fedmq.algorithms import krum
from fedmq.algorithms import rows as matrices
from fedmq.algorithms.aggregate import Aggregator, Update

#: seven updates of two coordinates, the last one hostile
X = [[0.9, 2.1], [2.2, 0.8], [1.5, 1.6], [1.1, 1.0], [1.9, 2.0], [1.25, 1.7], [100.0, -100.0]]
WORKED = [
    ("median", {}, (1.5, 1.6)),
    ("trimmed_mean", {"trim": 1}, (1.59, 1.42)),
    ("trimmed_mean", {"trim": 2}, (1.55, 1.433333)),
    ("krum", {"f": 1}, (1.25, 1.7)),
    ("multi_krum", {"f": 1, "m": 2}, (1.375, 1.65)),
    ("multi_krum", {"f": 1, "m": 3}, (1.216667, 1.8)),
    ("multi_krum", {"f": 1, "m": 4}, (1.3875, 1.85)),
    ("bulyan", {"f": 1}, (1.283333, 1.8)),
    ("geometric_median", {"iters": 4}, (1.614008, 1.384611)),
    ("geometric_median", {"iters": 1000, "tolerance": 0}, (1.5, 1.6)),
    ("centered_clip", {"tau": 1, "iters": 1}, (0.677977, 0.498092)),
    ("centered_clip", {"tau": 1, "iters": 3}, (1.530868, 1.307497)),
    ("centered_clip", {"tau": 10, "iters": 1}, (2.274438, 0.304133)),
    ("norm_clip", {"clip": 2}, (1.301686, 0.946848)),
]
#: each rule, with how many of seven updates it withstands
RULES = [
    *[("median", {}, 3), ("trimmed_mean", {"trim": 2}, 2), ("krum", {"f": 2}, 2), ("multi_krum", {"f": 2}, 2)],
    *[("multi_krum", {"f": 2, "variant": "flower"}, 2), ("multi_krum", {"f": 2, "variant": "byzfl"}, 2)],
    *[("bulyan", {"f": 1}, 1), ("geometric_median", {}, 3), ("norm_clip", {"clip": 2}, 3)],
    ("centered_clip", {"tau": 2, "iters": 50}, 3),
]
SHIFT_INVARIANT = [rule for rule in RULES if rule[0] not in ("norm_clip", "centered_clip")]


def aggregate(rule: Aggregator, rows: Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> np.ndarray:
    state = rule.init({"w": np.zeros(len(rows[0]))})
    for k, row in enumerate(rows):
        update = Update(f"client_{k}", 0, 1, 1, {"w": np.array(row, np.float64)})
        state = rule.fold(state, update, 1.0 if weights is None else weights[k])
    return rule.finish(state)["w"]


@pytest.mark.parametrize(("name", "options", "expected"), WORKED)
def test_worked_numbers(name: str, options: dict[str, float], expected: tuple[float, float]) -> None:
    assert aggregate(build.aggregator(name, **options), X) == pytest.approx(expected, abs=7e-7)


def test_the_geometric_median_is_where_nothing_is_nearer_to_all() -> None:
    """Its objective at the worked point, and at points around it."""
    rows = np.array(X)
    found = aggregate(build.aggregator("geometric_median"), X)

    def objective(z: np.ndarray) -> float:
        return float(np.linalg.norm(rows - z, axis=1).sum())

    assert objective(found) == pytest.approx(144.909139, abs=1e-6)
    around = found + 1e-3 * np.random.default_rng(0).normal(size=(50, 2))
    assert all(objective(z) > objective(found) for z in around)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0, 0], [1, 0], [0.5, 3**0.5 / 2]], [0.5, 3**0.5 / 6]),
        ([[0, 0], [1, 0.1], [-1, 0.1]], [0, 0]),
        ([[0, 0], [1, 1], [9, 9]], [1, 1]),
    ],
    ids=["equilateral: centroid", "a wide angle: that vertex", "on a line: the median"],
)
def test_geometry_of_the_geometric_median(rows: list[list[float]], expected: list[float]) -> None:
    assert aggregate(build.aggregator("geometric_median", iters=5000, tolerance=0), rows) == pytest.approx(
        expected, abs=1e-3
    )


def naive_krum_scores(rows: np.ndarray, neighbours: int, itself: bool) -> list[float]:
    scores = []
    for i, row in enumerate(rows):
        others = [float(np.sum((row - other) ** 2)) for j, other in enumerate(rows) if itself or i != j]
        scores.append(sum(sorted(others)[:neighbours]))
    return scores


def test_krum_scores_of_the_worked_example() -> None:
    expected = [3.1525, 5.6225, 1.5225, 3.5325, 3.3725, 1.38, 79760.11]
    assert naive_krum_scores(np.array(X), 7 - 1 - 2, False) == pytest.approx(expected, abs=1e-9)
    matrix = matrices.Matrix(matrices.RowsInMemory(), np.ones(7), {"w": np.zeros(2)}, np.zeros(2))
    for row in X:
        matrix.rows.append(np.array(row))
    assert krum._scores(krum._squared_distances(matrix), 4).tolist() == pytest.approx(expected, abs=1e-9)


def test_distances_of_updates_that_are_near_each_other_do_not_cancel() -> None:
    """In the expanded form, |x|^2 + |y|^2 - 2 x y, these are 0 or noise: the one in the middle is found by chance."""
    rows = [[1e9 + step, 1e9] for step in (4e-3, 0.0, 1.2e-3, 2e-3, 2.9e-3)]
    assert aggregate(build.aggregator("krum", f=1), rows).tolist() == rows[3]


@given(seed=st.integers(0, 999), f=st.integers(1, 2))
def test_the_variants_of_multi_krum(seed: int, f: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(8, 3))
    weights = np.random.default_rng(seed + 1).uniform(1, 5, size=8)
    paper, byzfl = naive_krum_scores(rows, 8 - f - 2, False), naive_krum_scores(rows, 8 - f, True)
    best = sorted(np.argsort(paper)[:3])
    expected = {
        "paper": rows[best].mean(axis=0),
        "flower": np.average(rows[best], axis=0, weights=weights[best]),
        "byzfl": rows[np.argsort(byzfl)[:3]].mean(axis=0),
    }
    for variant, value in expected.items():
        rule = build.aggregator("multi_krum", f=f, m=3, variant=variant)
        assert aggregate(rule, rows.tolist(), weights.tolist()) == pytest.approx(value)


def test_as_many_as_each_variant_takes_by_default() -> None:
    rows = np.random.default_rng(5).normal(size=(7, 3))
    for variant, count in (("paper", 4), ("flower", 4), ("byzfl", 6)):
        without, given = (
            aggregate(build.aggregator("multi_krum", f=1, variant=variant, **m), rows.tolist())
            for m in ({}, {"m": count})
        )
        assert np.array_equal(without, given)


@pytest.mark.parametrize(("name", "options", "withstands"), RULES)
def test_hostile_updates_move_it_no_further_than_honest_ones_are_apart(
    name: str, options: dict[str, float], withstands: int
) -> None:
    """All of it in the worst direction, all hostile ones together."""
    honest = np.random.default_rng(1).normal(size=(7 - withstands, 4))
    undisturbed = np.abs(honest).max() * 2
    for size in (1e3, 1e30):
        for hostile in ([size] * 4, [-size] * 4):
            rows = [*honest.tolist(), *[hostile] * withstands]
            assert np.abs(aggregate(build.aggregator(name, **options), rows)).max() < undisturbed


def test_the_mean_is_not_robust() -> None:
    """So that the test above can fail."""
    assert np.abs(aggregate(build.aggregator("fedavg"), X)).max() > 10


#: Where Bulyan compares an update with its nearest one only, as with f 1, two that are each other's nearest are equals,
#: and the first one is picked: the clients' ids decide, not who answered first.
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [*[(name, options, 7) for name, options, _ in RULES if name != "bulyan"], ("bulyan", {"f": 3}, 15)],
)
def test_the_order_of_updates_does_not_count(name: str, options: dict[str, float], count: int) -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(count, 4))
    found = aggregate(build.aggregator(name, **options), rows.tolist())
    for _ in range(5):
        shuffled = rng.permutation(rows).tolist()
        assert aggregate(build.aggregator(name, **options), shuffled) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize(("name", "options", "_"), SHIFT_INVARIANT)
def test_what_is_added_to_all_is_added_to_the_result(name: str, options: dict[str, float], _: int) -> None:
    rows, shift = np.random.default_rng(3).normal(size=(7, 4)), np.array([5.0, -2.0, 0.5, 100.0])
    rule = build.aggregator(name, **options)
    assert aggregate(rule, (rows + shift).tolist()) == pytest.approx(aggregate(rule, rows.tolist()) + shift)


@pytest.mark.parametrize(("name", "options", "_"), RULES)
def test_it_is_computed_in_blocks_as_in_one(
    name: str, options: dict[str, float], _: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(4).normal(size=(7, 11)).tolist()
    whole = aggregate(build.aggregator(name, **options), rows)
    for read, work in ((2, 2), (5, 2), (1, 9)):
        monkeypatch.setattr(matrices, "_READ_NBYTES", read * 8 * 7)
        monkeypatch.setattr(matrices, "_WORK_NBYTES", work * 8 * 7)
        assert aggregate(build.aggregator(name, **options), rows) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "fewest"),
    [
        *[("median", {}, 3), ("trimmed_mean", {"trim": 2}, 5), ("krum", {"f": 2}, 7), ("bulyan", {"f": 1}, 7)],
        ("geometric_median", {}, 3),
        *[("multi_krum", {"f": 1}, 5), ("multi_krum", {"f": 1, "m": 4}, 7), ("krum", {"f": 0}, 3)],
        *[("multi_krum", {"f": 1, "m": 6, "variant": "byzfl"}, 7), ("centered_clip", {}, 1), ("norm_clip", {}, 1)],
    ],
)
def test_below_the_required_number_it_refuses(name: str, options: dict[str, float], fewest: int) -> None:
    rule = build.aggregator(name, **options)
    assert rule.fewest == fewest
    aggregate(rule, X[:fewest])
    if fewest > 1:
        with pytest.raises(ValueError, match=rf"{name}.* needs at least {fewest} updates, and there are {fewest - 1}"):
            aggregate(rule, X[: fewest - 1])


@pytest.mark.parametrize("name", sorted({*build.AGGREGATORS} - {"fedavg"}))
def test_none_of_them_is_an_average(name: str) -> None:
    """Of as few as each takes, and with the smallest options that it takes."""
    options = {"krum": {"f": 0}, "multi_krum": {"f": 0}, "norm_clip": {"clip": 2}, "centered_clip": {"tau": 2}}
    rule = build.aggregator(name, **options.get(name, {}))
    rows = np.array(X)[::-1][: max(3, rule.fewest)]
    assert np.abs(aggregate(rule, rows.tolist()) - rows.mean(axis=0)).max() > 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        *[("krum", {"f": -1}, "f of at least 0"), ("krum", {"f": 0.5}, "whole f"), ("bulyan", {"f": 0}, "at least 1")],
        *[("multi_krum", {"f": 0, "variant": "byzfl"}, "at least 1"), ("geometric_median", {"tolerance": -1}, ">= 0")],
        *[("trimmed_mean", {"trim": 0}, "whole trim"), ("multi_krum", {"m": 0}, "whole m")],
        *[("multi_krum", {"variant": "mean"}, "need variant"), ("geometric_median", {"iters": 0}, "whole iters")],
        *[("centered_clip", {"tau": 0}, "tau > 0"), ("centered_clip", {"iters": 0}, "whole iters")],
        *[("norm_clip", {"clip": 0}, "clip > 0"), ("norm_clip", {"clip": float("nan")}, "clip > 0")],
    ],
)
def test_an_option_without_sense_is_refused(name: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build.aggregator(name, **options)


@pytest.mark.parametrize("name", ["geometric_median", "norm_clip"])
def test_weights_count_where_they_are_said_to(name: str) -> None:
    rule = build.aggregator(name)
    doubled = aggregate(rule, [*X, X[0]])
    assert aggregate(rule, X, [2, 1, 1, 1, 1, 1, 1]) == pytest.approx(doubled)


@pytest.mark.parametrize("name", sorted({*build.AGGREGATORS} - {"fedavg", "norm_clip", "geometric_median"}))
def test_weights_do_not_count_elsewhere(name: str) -> None:
    rule = build.aggregator(name)
    assert np.array_equal(aggregate(rule, X), aggregate(rule, X, [9, 1, 1, 2, 1, 1, 5]))
