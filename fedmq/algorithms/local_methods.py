"""Local methods: what a client's training does against drift, beside lowering its loss.

x is the global adapter that a round starts from, y the client's as it is trained, f its loss, g the gradient of f at y.
What a client remembers of a method is named tensors, as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fedmq.algorithms.options import require
from fedmq.tensors import NamedTensors

_H, _C = "h:", "c:"
#: Before the names of what comes with the adapter; of nobody's memory, though it is handed in with it.
CONTROL = "control:"


def _nothing(memory: NamedTensors) -> NamedTensors:
    return {}


class LocalMethod(NamedTuple):
    """What is added to the gradient, pull * (y - x) + push, and what becomes of a client's memory.

    Attributes:
      pull: >= 0.
      push: memory -> what is added, by the adapter's names; {} is 0. The memory is empty before a client's first
        training.
      after: (memory, y - x at the end, sum of the steps' learning rates) -> memory; None where nothing is remembered.
      in_loss: a term of the loss is clipped with the loss's gradient; else it is added to the clipped one.
    """

    pull: float = 0.0
    push: Callable[[NamedTensors], NamedTensors] = _nothing
    after: Callable[[NamedTensors, NamedTensors, float], NamedTensors] | None = None
    in_loss: bool = True


def fedavg() -> LocalMethod:
    """Nothing but f.

    Reference:
      McMahan et al. 2017 (arXiv 1602.05629), Algorithm 1.
    """
    return LocalMethod()


def fedprox(mu: float = 0.01) -> LocalMethod:
    """f + mu/2 * |y - x|^2 in place of f, over all factors: the gradient is g + mu * (y - x).

    Args:
      mu: >= 0; at 0 it is `fedavg`, to the bit.

    Example:
      >>> fedprox(mu=0.5).pull
      0.5

    Reference:
      Li et al. 2020, Federated Optimization in Heterogeneous Networks (arXiv 1812.06127), equation 2.
    """
    require(">= 0", mu=mu)
    return LocalMethod(float(mu))


def fednova() -> LocalMethod:
    """Nothing but f: the coordinator makes good for different numbers of steps (`fedmq.algorithms.local_aggregate`)."""
    return LocalMethod()


def feddyn(alpha: float = 0.01) -> LocalMethod:
    """f - <h_k, y> + alpha/2 * |y - x|^2 in place of f; then h_k -= alpha * (y - x), from h_k = 0.

    Where y is an optimum of that, h_k becomes the gradient of f at y. The coordinator's part is
    `fedmq.algorithms.local_aggregate.feddyn`.

    Args:
      alpha: > 0.

    Example:
      >>> method = feddyn(alpha=0.5)
      >>> memory = method.after({}, {"w": np.array([4.0])}, 1.0)
      >>> memory, method.push(memory)
      ({'h:w': array([-2.], dtype=float32)}, {'w': array([2.], dtype=float32)})

    Reference:
      Acar et al. 2021, Federated Learning Based on Dynamic Regularization (arXiv 2111.04263), Algorithm 1.
    """
    require("> 0", alpha=alpha)

    def push(memory: NamedTensors) -> NamedTensors:
        return {name: -value for name, value in named(memory, _H).items()}

    def after(memory: NamedTensors, moved: NamedTensors, rates: float) -> NamedTensors:
        before = named(memory, _H)
        return {
            f"{_H}{name}": np.asarray(before.get(name, 0.0) - alpha * value, np.float32)
            for name, value in moved.items()
        }

    return LocalMethod(float(alpha), push, after)


def scaffold() -> LocalMethod:
    """y -= lr * (g - c_k + c); then c_k becomes c_k - c + (x - y) / sum of lr: the mean of the g, from c_k = 0.

    c comes with the adapter, under names with `CONTROL`. What y moves by tells the mean of g under plain SGD only. The
    coordinator's part is `fedmq.algorithms.local_aggregate.scaffold`.

    Example:
      >>> method = scaffold()
      >>> memory = method.after({"control:w": np.array([1.0])}, {"w": np.array([-3.0])}, 0.5)
      >>> memory, method.push({"control:w": np.array([1.0]), **memory})
      ({'c:w': array([5.], dtype=float32)}, {'w': array([-4.])})

    Reference:
      Karimireddy et al. 2020, SCAFFOLD (arXiv 1910.06378), Algorithm 1, option II; with the rates of a schedule.
    """

    def push(memory: NamedTensors) -> NamedTensors:
        common, own = named(memory, CONTROL), named(memory, _C)
        return {name: np.asarray(common.get(name, 0.0) - own.get(name, 0.0)) for name in {**common, **own}}

    def after(memory: NamedTensors, moved: NamedTensors, rates: float) -> NamedTensors:
        common, own = named(memory, CONTROL), named(memory, _C)

        def next_of(name: str, value: np.ndarray) -> np.ndarray:
            before = own.get(name, np.zeros(value.shape, np.float32))
            return before - common.get(name, 0.0) - value / rates if rates else before

        return {f"{_C}{name}": np.asarray(next_of(name, value), np.float32) for name, value in moved.items()}

    return LocalMethod(0.0, push, after, in_loss=False)


def named(tensors: NamedTensors, prefix: str) -> dict[str, np.ndarray]:
    """Those whose names have the prefix, without it.

    Example:
      >>> named({"h:w": np.zeros(1), "c:w": np.ones(1)}, "c:")
      {'w': array([1.])}
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


BY_NAME: Mapping[str, Callable[..., LocalMethod]] = {
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fednova": fednova,
    "feddyn": feddyn,
    "scaffold": scaffold,
}
