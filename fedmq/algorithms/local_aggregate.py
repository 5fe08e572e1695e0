"""Aggregation that knows how the clients trained: their steps, and the rates of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, MeanState, Update, fedavg
from fedmq.algorithms.options import require
from fedmq.tensors import NamedTensors, require_same_shapes, zeros_like


class LocalSteps(NamedTuple):
    """How the steps of every local training are made.

    Attributes:
      num_clients: N, of the run.
      learning_rate: its peak, eta.
      warmup_steps: in which it rises from 0; then it falls to 0.
      momentum: of SGD, rho; 0 for AdamW.
    """

    num_clients: int
    learning_rate: float
    warmup_steps: int
    momentum: float = 0.0

    def rates(self, num_steps: int) -> np.ndarray:
        """eta_t / eta of each step of a training of so many.

        Example:
          >>> LocalSteps(3, 0.1, 1).rates(3).tolist()
          [0.0, 1.0, 0.5]
        """
        steps = np.arange(num_steps)
        falling = (num_steps - steps) / max(1, num_steps - self.warmup_steps)
        return np.where(steps < self.warmup_steps, steps / max(1, self.warmup_steps), falling)

    def work(self, num_steps: int) -> float:
        """|a|_1 = sum_t (eta_t / eta) (1 - rho^(t+1)) / (1 - rho): by how many gradients, at rate eta, y has moved.

        Example:
          >>> round(LocalSteps(3, 0.1, 0).work(3), 12)
          2.0
        """
        counted = (1 - self.momentum ** np.arange(1, num_steps + 1)) / (1 - self.momentum)
        return float(self.rates(num_steps) @ counted)


class _NovaState(NamedTuple):
    mean: MeanState
    weight: float
    work: float
    unit: float


def fednova(steps: LocalSteps) -> Aggregator:
    """D = (sum_k p_k a_k) * sum_k p_k D_k / a_k, p_k the weights over their sum, a_k = `LocalSteps.work` of client k.

    A client with many steps moves far, and pulls the mean towards its own optimum beyond its weight; per unit of work
    it does not. Equal a_k give `fedavg`, to the bit. A client of which no step had a rate above 0 has moved nothing.

    Args:
      steps: how they are made.

    Example:
      >>> rule = fednova(LocalSteps(2, 0.1, 0))
      >>> state = rule.init({"w": np.zeros(1)})
      >>> for client, moved, num_steps in (("a", 1.0, 1), ("b", 6.0, 3)):
      ...     state = rule.fold(state, Update(client, 0, 1, 1, {"w": np.array([moved])}, num_steps), 1)
      >>> rule.finish(state)
      {'w': array([3.])}

    Reference:
      Wang et al. 2020, FedNova (arXiv 2007.07481), equation 7; a_k with the rates of a schedule.
    """
    mean = fedavg()

    def init(like: NamedTensors) -> _NovaState:
        return _NovaState(mean.init(like), 0.0, 0.0, 0.0)

    def fold(state: _NovaState, update: Update, weight: float) -> _NovaState:
        if update.num_steps < 1:
            raise ValueError(f"need the number of steps of client {update.client_id}, got {update.num_steps}")
        work = steps.work(update.num_steps)
        # Relative to the first client's, so that equal ones are exactly 1.
        unit = state.unit or work
        share = unit / work if work else 1.0
        folded = mean.fold(state.mean, update, weight * share)
        return _NovaState(folded, state.weight + weight, state.work + weight * (work / unit if unit else 0.0), unit)

    def finish(state: _NovaState) -> NamedTensors:
        if state.weight == 0:
            raise ValueError("nothing to average: no update was folded")
        found = mean.finish(state.mean._replace(weight=state.weight))
        factor = state.work / state.weight
        return {name: np.multiply(value, factor, out=value) for name, value in found.items()}

    return Aggregator(init, fold, finish, name="fednova")


class _DynState(NamedTuple):
    total: NamedTensors
    num_updates: int
    h: NamedTensors


def feddyn(steps: LocalSteps, alpha: float = 0.01) -> Aggregator:
    """h -= alpha/N * sum_k D_k over the round's clients, from h = 0; the next x is x + mean D_k - h / alpha.

    h is the mean of all clients' h_k (`fedmq.algorithms.local_methods.feddyn`), and is left to the next round.

    Args:
      steps: of it, N.
      alpha: > 0.

    Example:
      >>> rule = feddyn(LocalSteps(4, 0.1, 0), alpha=0.5)
      >>> state = rule.init({"w": np.zeros(1)})
      >>> for client, moved in (("a", 1.0), ("b", 3.0)):
      ...     state = rule.fold(state, Update(client, 0, 1, 1, {"w": np.array([moved])}), 1)
      >>> rule.left(state), rule.finish(state)
      ({'w': array([-0.5])}, {'w': array([3.])})

    Reference:
      Acar et al. 2021, FedDyn (arXiv 2111.04263), Algorithm 1.
    """
    require("> 0", alpha=alpha)

    def init(like: NamedTensors) -> _DynState:
        return _DynState(zeros_like(like), 0, zeros_like(like))

    def after(state: _DynState, left: NamedTensors) -> _DynState:
        require_same_shapes(state.h, left)
        return state._replace(h=left)

    def fold(state: _DynState, update: Update, weight: float) -> _DynState:
        if weight != 1:
            raise ValueError(f"client {update.client_id} weighs {weight:g}: in FedDyn all weigh 1")
        require_same_shapes(state.total, update.delta)
        for name, total in state.total.items():
            total += update.delta[name]
        return state._replace(num_updates=state.num_updates + 1)

    def left(state: _DynState) -> NamedTensors:
        return {name: h - alpha / steps.num_clients * state.total[name] for name, h in state.h.items()}

    def finish(state: _DynState) -> NamedTensors:
        if state.num_updates == 0:
            raise ValueError("nothing to average: no update was folded")
        return {name: state.total[name] / state.num_updates - h / alpha for name, h in left(state).items()}

    return Aggregator(init, fold, finish, after=after, name=f"feddyn with alpha {alpha:g}", left=left)


class _ScaffoldState(NamedTuple):
    mean: MeanState
    moved: NamedTensors
    c: NamedTensors


def scaffold(steps: LocalSteps) -> Aggregator:
    """The mean of `fedavg`; and c += 1/N * sum of the changes of c_k over the round's clients, from c = 0.

    c_k changes by -c - D_k / sum of lr (`fedmq.algorithms.local_methods.scaffold`), which D_k and the number of steps
    tell: it need not be sent. c is left to the next round, and goes to its clients.

    Args:
      steps: how they are made; of it, N.

    Example:
      >>> rule = scaffold(LocalSteps(4, 0.5, 0))
      >>> state = rule.init({"w": np.zeros(1)})
      >>> state = rule.fold(state, Update("a", 0, 1, 1, {"w": np.array([2.0])}, 1), 1)
      >>> rule.left(state), rule.finish(state)
      ({'w': array([-1.], dtype=float32)}, {'w': array([2.])})

    Reference:
      Karimireddy et al. 2020, SCAFFOLD (arXiv 1910.06378), Algorithm 1, option II.
    """
    mean = fedavg()

    def init(like: NamedTensors) -> _ScaffoldState:
        return _ScaffoldState(mean.init(like), zeros_like(like), zeros_like(like))

    def after(state: _ScaffoldState, left: NamedTensors) -> _ScaffoldState:
        require_same_shapes(state.c, left)
        return state._replace(c=left)

    def fold(state: _ScaffoldState, update: Update, weight: float) -> _ScaffoldState:
        if update.num_steps < 1:
            raise ValueError(f"need the number of steps of client {update.client_id}, got {update.num_steps}")
        folded = mean.fold(state.mean, update, weight)
        # Where every rate is 0, c_k stays as it is.
        if rates := steps.learning_rate * float(steps.rates(update.num_steps).sum()):
            for name, total in state.moved.items():
                total -= state.c[name] + update.delta[name] / rates
        return state._replace(mean=folded)

    def left(state: _ScaffoldState) -> NamedTensors:
        # As it is sent: clients subtract what they got.
        return {name: np.asarray(c + state.moved[name] / steps.num_clients, np.float32) for name, c in state.c.items()}

    return Aggregator(
        init, fold, lambda state: mean.finish(state.mean), after=after, name="scaffold", left=left, told=True
    )


#: what takes the place of the mean: how steps are made, and the method's options -> the rule
BY_NAME: Mapping[str, Callable[..., Aggregator]] = {"fednova": fednova, "feddyn": feddyn, "scaffold": scaffold}
