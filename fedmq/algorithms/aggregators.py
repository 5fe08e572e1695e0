"""The aggregation rules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmq.algorithms import krum, robust
from fedmq.algorithms.aggregate import Aggregator, fedavg

#: rules that compare all updates of a round with each other, and keep them until its end
OF_ROWS: Mapping[str, Callable[..., Aggregator]] = {
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
    "krum": krum.krum,
    "multi_krum": krum.multi_krum,
    "bulyan": krum.bulyan,
    "geometric_median": robust.geometric_median,
    "centered_clip": robust.centered_clip,
}
BY_NAME: Mapping[str, Callable[..., Aggregator]] = {"fedavg": fedavg, "norm_clip": robust.norm_clip, **OF_ROWS}
