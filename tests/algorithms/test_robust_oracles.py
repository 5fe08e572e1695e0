"""Robust rules against numbers that others printed: ByzFL 0.0.11 and flwr 1.41.0, float64, on the rows below.

Flower's are those of flwr.server.strategy.aggregate. ByzFL's geometric median starts from 0, so that only where it
comes to can be compared; its Krum has other neighbours than the paper's.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedmq import build
from fedmq.algorithms.aggregate import Aggregator, Update

#: eleven updates of three numbers, those of rows 4 and 9 hostile
ROWS = [
    *[[0.84, -0.75, 0.42], [1.97, -1.99, 1.82], [1.95, -2.25, 2.86], [-0.01, -0.13, 0.52], [-53.0, 44.1, -12.7]],
    *[[-2.97, 2.89, -2.3], [-0.83, 0.9, -0.99], [-0.52, 0.79, -1.47], [1.3, -0.91, -0.34], [36.8, -34.2, 22.6]],
    [1.9, -1.96, 1.93],
]
WEIGHTS = [10.0 * (k + 1) for k in range(11)]
PRINTED = {
    "ByzFL Median": ("median", {}, [0.84, -0.75, 0.42]),
    "ByzFL TrMean(f=2)": ("trimmed_mean", {"trim": 2}, [0.6614285714285714, -0.5785714285714285, 0.27]),
    "ByzFL MultiKrum(f=2)": (
        *("multi_krum", {"f": 2, "variant": "byzfl"}),
        [0.4033333333333334, -0.37888888888888883, 0.27222222222222225],
    ),
    "ByzFL Krum(f=2)": ("multi_krum", {"f": 2, "m": 1, "variant": "byzfl"}, [-0.01, -0.13, 0.52]),
    "ByzFL CenteredClipping(L=3, tau=1)": (
        *("centered_clip", {"tau": 1, "iters": 3}),
        [0.3534625422181911, -0.31905731352010225, 0.18834060314481582],
    ),
    "flwr aggregate_median": ("median", {}, [0.84, -0.75, 0.42]),
    "flwr aggregate_trimmed_avg, 2 of 11": (
        *("trimmed_mean", {"trim": 2}),
        [0.6614285714285714, -0.5785714285714284, 0.27],
    ),
    "flwr aggregate_krum, f 2": ("krum", {"f": 2}, [0.84, -0.75, 0.42]),
    "flwr aggregate_krum, f 2, 3 kept": (
        *("multi_krum", {"f": 2, "m": 3, "variant": "flower"}),
        [0.8928571428571429, -0.6757142857142858, -0.04],
    ),
    "flwr aggregate_bulyan, f 2": ("bulyan", {"f": 2}, [0.7100000000000001, -0.5966666666666667, 0.19999999999999996]),
    "flwr aggregate": ("fedavg", {}, [1.793939393939394, -2.0195454545454554, 2.4681818181818183]),
}


def aggregate(rule: Aggregator, rows: np.ndarray, last: np.ndarray | None = None) -> np.ndarray:
    state = rule.init({"w": np.zeros(3)})
    if last is not None:
        assert rule.after is not None
        state = rule.after(state, {"w": last})
    for k, (row, weight) in enumerate(zip(rows, WEIGHTS, strict=True)):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, {"w": row}), weight)
    return rule.finish(state)["w"]


@pytest.mark.parametrize("printed", PRINTED)
def test_numbers_of_others(printed: str) -> None:
    name, options, expected = PRINTED[printed]
    assert aggregate(build.aggregator(name, **options), np.array(ROWS)) == pytest.approx(expected, rel=1e-12)


def test_the_geometric_median_comes_to_where_byzfls_does() -> None:
    """ByzFL GeometricMedian(nu=1e-6, T=1000), which does not weigh."""
    rule = build.aggregator("geometric_median", iters=1000, tolerance=0)
    state = rule.init({"w": np.zeros(3)})
    for k, row in enumerate(ROWS):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, {"w": np.array(row)}), 1.0)
    expected = [0.8399992368605919, -0.749999418451398, 0.41999994908645055]
    assert rule.finish(state)["w"] == pytest.approx(expected, abs=1e-9)


def test_centered_clipping_goes_on_from_the_last_round_as_byzfls_does() -> None:
    """Its CenteredClipping(L=3, tau=1), called twice."""
    rule, rows = build.aggregator("centered_clip", tau=1, iters=3), np.array(ROWS)
    second = aggregate(rule, -rows / 2, last=aggregate(rule, rows))
    assert second == pytest.approx([-0.15342948732755332, 0.13609009798704377, -0.0736985474931067], rel=1e-12)
    assert aggregate(rule, -rows / 2) != pytest.approx(second, rel=1e-3), "from 0 it comes elsewhere"
