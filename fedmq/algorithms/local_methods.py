"""Local methods: what a client's training does against drift, beside lowering its loss.

x is the global adapter that a round starts from, y the client's as it is trained, f its loss, g the gradient of f at y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedmq.algorithms.options import require


class LocalMethod(NamedTuple):
    """A term of the local loss, by its gradient: pull * (y - x).

    Attributes:
      pull: >= 0; 0 leaves the gradient as it is, to the bit.
    """

    pull: float


def fedavg() -> LocalMethod:
    """Nothing but f.

    Reference:
      McMahan et al. 2017 (arXiv 1602.05629), Algorithm 1.
    """
    return LocalMethod(0.0)


def fedprox(mu: float = 0.01) -> LocalMethod:
    """f + mu/2 * |y - x|^2 in place of f, over all factors: the gradient is g + mu * (y - x).

    Args:
      mu: >= 0; at 0 it is `fedavg`.

    Example:
      >>> fedprox(mu=0.5)
      LocalMethod(pull=0.5)

    Reference:
      Li et al. 2020, Federated Optimization in Heterogeneous Networks (arXiv 1812.06127), equation 2.
    """
    require(">= 0", mu=mu)
    return LocalMethod(float(mu))


def fednova() -> LocalMethod:
    """Nothing but f: the coordinator makes good for different numbers of steps (`fedmq.algorithms.local_aggregate`)."""
    return LocalMethod(0.0)


BY_NAME: Mapping[str, Callable[..., LocalMethod]] = {"fedavg": fedavg, "fedprox": fedprox, "fednova": fednova}
