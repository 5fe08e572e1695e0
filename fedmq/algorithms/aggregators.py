"""The aggregation rules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmq.algorithms import krum, robust
from fedmq.algorithms.aggregate import Aggregator, fedavg

BY_NAME: Mapping[str, Callable[..., Aggregator]] = {
    "fedavg": fedavg,
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
    "krum": krum.krum,
    "multi_krum": krum.multi_krum,
    "bulyan": krum.bulyan,
    "geometric_median": robust.geometric_median,
    "centered_clip": robust.centered_clip,
    "norm_clip": robust.norm_clip,
}
#: why a rule needs as many updates as `Aggregator.fewest` says
NEEDS: Mapping[str, str] = {
    "median": "the median of two is their mean",
    "trimmed_mean": "n >= 2 trim + 1",
    "krum": "n >= 2 f + 3",
    "multi_krum": 'n >= 2 f + 3 and m + f + 2; "byzfl": m + f',
    "bulyan": "n >= 4 f + 3",
    "geometric_median": "all points between two minimise",
}
