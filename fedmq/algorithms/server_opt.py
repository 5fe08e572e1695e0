"""Server optimisers: how the mean delta moves the global adapter.

x is the global adapter, D the mean delta of the round (a descent direction: the pseudo-gradient is -D); all is float64.
The state is named tensors too, so that a server can keep it beside the adapter and a resumed run goes on to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from fedmq.algorithms.options import one_of, require
from fedmq.tensors import NamedTensors, add, require_same_shapes, scale, zeros_like

Convention = Literal["paper", "flower"]
#: of a second moment: (v, D^2) -> v
_Moment = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ServerOptimizer(NamedTuple):
    """A server step as two pure functions with explicit state.

    Attributes:
      init: params -> state: named tensors of any names, float64; empty where the rule remembers nothing.
      step: (params, mean delta, state) -> (params, state), in float64. Arguments are left as they are.
    """

    init: Callable[[NamedTensors], NamedTensors]
    step: Callable[[NamedTensors, NamedTensors, NamedTensors], tuple[NamedTensors, NamedTensors]]


def none(lr: float = 1.0) -> ServerOptimizer:
    """x + lr * D: plain FedAvg with a server learning rate (1 = take the mean).

    Example:
      >>> rule = none(lr=0.5)
      >>> params, _ = rule.step({"w": np.array([1.0])}, {"w": np.array([4.0])}, rule.init({}))
      >>> params
      {'w': array([3.])}
    """
    require("> 0", lr=lr)

    def step(params: NamedTensors, delta: NamedTensors, state: NamedTensors) -> tuple[NamedTensors, NamedTensors]:
        return add(params, delta if lr == 1 else scale(delta, lr)), state

    return ServerOptimizer(lambda params: {}, step)


def avgm(lr: float = 0.1, momentum: float = 0.9) -> ServerOptimizer:
    """FedAvgM: v = momentum * v + D; x += lr * v, from v = 0.

    Deltas that agree add up to lr / (1 - momentum) times one of them, so that the default moves as far as plain FedAvg.

    Args:
      lr: > 0.
      momentum: in [0, 1).

    Reference:
      Hsu, Qi, Brown 2019, Measuring the Effects of Non-Identical Data Distribution (arXiv 1909.06335), section 4.
    """
    return _momentum(lr, momentum, nesterov=False)


def nesterov(lr: float = 0.7, momentum: float = 0.9) -> ServerOptimizer:
    """DiLoCo's outer step: v = momentum * v + D; x += lr * (D + momentum * v), from v = 0.

    The same as torch.optim.SGD(lr, momentum, nesterov=True) with -D as the gradient.

    Args:
      lr: > 0.
      momentum: in [0, 1); less for runs of few rounds.

    Example:
      >>> rule = nesterov(lr=1.0, momentum=0.5)
      >>> params, state = {"w": np.array([0.0])}, rule.init({"w": np.array([0.0])})
      >>> for _ in range(2):
      ...     params, state = rule.step(params, {"w": np.array([1.0])}, state)
      >>> params
      {'w': array([3.25])}

    Reference:
      Douillard et al. 2023, DiLoCo (arXiv 2311.08105), Algorithm 1.
    """
    return _momentum(lr, momentum, nesterov=True)


def adagrad(
    lr: float = 1e-2, beta1: float = 0.0, tau: float = 1e-3, convention: Convention = "paper"
) -> ServerOptimizer:
    """FedAdagrad: m = beta1 * m + (1 - beta1) * D; v = v + D^2; x += lr * m / (sqrt(v) + tau).

    Args:
      lr: > 0; about the size of the first step of each entry.
      beta1: in [0, 1).
      tau: > 0, of the size of D's entries; the smaller, the more adaptive.
      convention: v starts at tau^2 ("paper") or at 0 ("flower").

    Reference:
      Reddi et al. 2021, Adaptive Federated Optimization (arXiv 2003.00295), Algorithm 2.
    """
    return _adaptive(lambda v, square: v + square, lr, beta1, None, tau, convention)


def adam(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, convention: Convention = "paper"
) -> ServerOptimizer:
    """FedAdam: m = beta1 * m + (1 - beta1) * D; v = beta2 * v + (1 - beta2) * D^2; x += lr * m / (sqrt(v) + tau).

    Args:
      lr, beta1, tau: as of `adagrad`.
      beta2: in [0, 1).
      convention: "paper": v starts at tau^2, no bias correction. "flower": v starts at 0, and lr is multiplied by
        sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)) in round t = 1, 2, ...

    Reference:
      Reddi et al. 2021 (arXiv 2003.00295), Algorithm 2; flwr 1.41, strategy FedAdam.
    """
    moment = _decayed(beta2)
    return _adaptive(moment, lr, beta1, beta2 if convention == "flower" else None, tau, convention)


def yogi(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, convention: Convention = "paper"
) -> ServerOptimizer:
    """FedYogi: as FedAdam, with v = v - (1 - beta2) * D^2 * sign(v - D^2), which falls slowly after a large D.

    Args:
      lr, beta1, tau, convention: as of `adagrad`.
      beta2: in [0, 1).

    Reference:
      Reddi et al. 2021 (arXiv 2003.00295), Algorithm 2.
    """
    require("in [0, 1)", beta2=beta2)

    def moment(v: np.ndarray, square: np.ndarray) -> np.ndarray:
        shrunk: np.ndarray = v - (1 - beta2) * square * np.sign(v - square)
        return shrunk

    return _adaptive(moment, lr, beta1, None, tau, convention)


BY_NAME: Mapping[str, Callable[..., ServerOptimizer]] = {
    "none": none,
    "avgm": avgm,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "adam": adam,
    "yogi": yogi,
}


def _momentum(lr: float, momentum: float, nesterov: bool) -> ServerOptimizer:
    require("> 0", lr=lr)
    require("in [0, 1)", momentum=momentum)

    def step(params: NamedTensors, delta: NamedTensors, state: NamedTensors) -> tuple[NamedTensors, NamedTensors]:
        velocity = add(scale(state, momentum), delta)
        moved = add(delta, scale(velocity, momentum)) if nesterov else velocity
        return add(params, scale(moved, lr)), velocity

    return ServerOptimizer(zeros_like, step)


def _decayed(beta2: float) -> _Moment:
    require("in [0, 1)", beta2=beta2)
    return lambda v, square: np.add(beta2 * v, (1 - beta2) * square)


def _adaptive(
    moment: _Moment, lr: float, beta1: float, corrected: float | None, tau: float, convention: str
) -> ServerOptimizer:
    """Algorithm 2 of Reddi et al.; `corrected` is the beta2 of Flower's bias correction, None for none."""
    require("> 0", lr=lr, tau=tau)
    require("in [0, 1)", beta1=beta1)
    one_of(get_args(Convention), convention=convention)

    def init(params: NamedTensors) -> NamedTensors:
        start = tau**2 if convention == "paper" else 0.0
        first = {f"m:{name}": value for name, value in zeros_like(params).items()}
        second = {f"v:{name}": value + start for name, value in zeros_like(params).items()}
        return first | second | {"round": np.zeros(())}

    def step(params: NamedTensors, delta: NamedTensors, state: NamedTensors) -> tuple[NamedTensors, NamedTensors]:
        require_same_shapes(params, delta)
        round = float(state["round"]) + 1
        rate = lr
        if corrected is not None:
            rate *= math.sqrt(1 - corrected ** (round + 1)) / (1 - beta1 ** (round + 1))
        stepped: dict[str, np.ndarray] = {}
        after = {"round": np.asarray(round)}
        for name, value in params.items():
            change = delta[name].astype(np.float64)
            first = beta1 * state[f"m:{name}"] + (1 - beta1) * change
            second = moment(state[f"v:{name}"], change**2)
            stepped[name] = value + rate * first / (np.sqrt(second) + tau)
            after |= {f"m:{name}": first, f"v:{name}": second}
        return stepped, after

    return ServerOptimizer(init, step)
