"""Server optimisers: how the mean delta moves the global adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fedmq.tensors import NamedTensors, add, scale


class ServerOptimizer(NamedTuple):
    """A server step as two pure functions with explicit state.

    Attributes:
      init: params -> state.
      step: (params, mean delta, state) -> (params in float64, state).
    """

    init: Callable[[NamedTensors], Any]
    step: Callable[[NamedTensors, NamedTensors, Any], tuple[NamedTensors, Any]]


def none(lr: float = 1.0) -> ServerOptimizer:
    """x + lr * D: plain FedAvg with a server learning rate (1 = take the mean).

    Example:
      >>> import numpy as np
      >>> rule = none(lr=0.5)
      >>> params, _ = rule.step({"w": np.array([1.0])}, {"w": np.array([4.0])}, rule.init({}))
      >>> params
      {'w': array([3.])}
    """
    if not lr > 0:
        raise ValueError(f"need a server learning rate > 0, got {lr}")

    def step(params: NamedTensors, delta: NamedTensors, state: None) -> tuple[NamedTensors, None]:
        return add(params, delta if lr == 1 else scale(delta, lr)), state

    return ServerOptimizer(lambda params: None, step)
