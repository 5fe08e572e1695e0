"""Aggregation of updates as a fold: constant memory in the number of clients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fedmq.algorithms.weighted_sum import WeightedSum, at_once
from fedmq.recipe import Factors
from fedmq.tensors import Difference, NamedTensors, Packed, empty_like, require_same_shapes


class Update(NamedTuple):
    """What one client contributes to one round.

    Attributes:
      client_id: the client, not the worker that trained it.
      base_version: the global version that local training started from.
      num_examples: training examples of the client.
      num_tokens: targets seen in training, over all epochs.
      delta: local minus global, float64; new_global = step(global, mean(delta)). In a run it is mostly a
        `fedmq.tensors.Difference`, which makes a tensor anew each time that it is asked for.
      num_steps: optimiser steps of the training; 0 where no rule asks for them.
    """

    client_id: str
    base_version: int
    num_examples: int
    num_tokens: int
    delta: NamedTensors
    num_steps: int = 0


class Aggregator(NamedTuple):
    """A mean of updates as three pure functions.

    Attributes:
      init: named tensors of the adapter's shapes -> empty state.
      fold: (state, update, weight > 0) -> state. Called in the order of the client ids. The state that goes
        in is used up: its memory may become the next one's. The update is left as it is.
      finish: state -> the mean delta, float64; uses the state up. ValueError when nothing was folded.
      trained: round (from 1) -> the LoRA factors that its clients train.
      fewest: updates without which `finish` raises ValueError; a round that may close with fewer is refused beforehand.
      after: (state from `init`, what the round before left) -> state, for a rule that starts from there; whoever
        drives it keeps what is left. None: no round depends on another.
      told: what is left goes to the next round's clients, as float32, with the adapter that they train from.
      left: state, before `finish` -> what the next round starts from, named tensors; None: what `finish` gives.
      merged: state, before `finish` -> what is added to the frozen weights: for module M, which gets s B A with the
        adapter's s, "M.lora_A.weight" (rank, d_in) and "M.lora_B.weight" (d_out, rank), float32.
        None: nothing.
      rebased: (round, the adapter that the server's step led to, float32) -> the same model by other factors,
        float32, with which the server's optimiser begins anew; None, as of most rounds: it stays as it is.
      name: of the rule and its options, for messages, and for knowing it again when a run is resumed.
    """

    init: Callable[[NamedTensors], Any]
    fold: Callable[[Any, Update, float], Any]
    finish: Callable[[Any], NamedTensors]
    trained: Callable[[int], Factors] = lambda round: "both"
    fewest: int = 1
    after: Callable[[Any, NamedTensors], Any] | None = None
    name: str = ""
    left: Callable[[Any], NamedTensors] | None = None
    told: bool = False
    merged: Callable[[Any], NamedTensors] | None = None
    rebased: Callable[[int, NamedTensors], NamedTensors | None] = lambda round, adapter: None

    def label(self) -> str:
        """Its name; of a rule without one, where its function `finish` is defined.

        Example:
          >>> Aggregator(print, print, max).label()
          'builtins.max'
        """
        return self.name or f"{self.finish.__module__}.{getattr(self.finish, '__qualname__', self.finish)}"


class MeanState(NamedTuple):
    """What was folded so far.

    Attributes:
      total: the weighted sum, without those that wait; before `begun` nothing was written there.
      begun: whether something was added.
      weight: the sum of all weights.
      waiting: updates and their weights, to be added in one pass (`fedmq.algorithms.weighted_sum`).
      most: as many wait at most.
      scratch: memory for one tensor's product: small, it stays in the cache.
    """

    total: Packed
    begun: bool
    weight: float
    waiting: list[tuple[Difference, float]]
    most: int
    scratch: np.ndarray


def fedavg() -> Aggregator:
    """The weighted mean of the deltas: sum_k w_k D_k / sum_k w_k, in float64.

    Floating-point addition is not associative, so the caller folds in client-id order; then the
    result does not depend, to the bit, on who answered first.

    Example:
      >>> rule = fedavg()
      >>> state = rule.init({"w": np.zeros(1, np.float32)})
      >>> state = rule.fold(state, Update("a", 0, 1, 9, {"w": np.array([1.0])}), 1)
      >>> state = rule.fold(state, Update("b", 0, 3, 9, {"w": np.array([5.0])}), 3)
      >>> rule.finish(state)
      {'w': array([4.])}

    Reference:
      McMahan et al. 2017, Communication-Efficient Learning (arXiv 1602.05629), Algorithm 1;
      for LoRA factors: FedIT (arXiv 2305.05644).
    """

    sums = WeightedSum()

    def init(like: NamedTensors) -> MeanState:
        scratch = np.empty(max((value.size for value in like.values()), default=0))
        return MeanState(empty_like(like), False, 0.0, [], at_once(like), scratch)

    def fold(state: MeanState, update: Update, weight: float) -> MeanState:
        if not 0 < weight < math.inf:
            raise ValueError(f"need a finite weight > 0, got {weight} for client {update.client_id}")
        delta, waiting = update.delta, state.waiting
        if not (waiting and isinstance(delta, Difference) and delta.b is waiting[0][0].b):
            require_same_shapes(state.total, delta)
            state = add_waiting(state)
        if isinstance(delta, Difference):
            waiting.append((delta, float(weight)))
            if len(waiting) == state.most:
                state = add_waiting(state)
        else:
            for name, total in state.total.items():
                product = state.scratch[: total.size].reshape(total.shape)
                np.multiply(delta[name], weight, out=product, dtype=np.float64)
                np.add(total if state.begun else 0.0, product, out=total)
            state = state._replace(begun=True)
        return state._replace(weight=state.weight + weight)

    def add_waiting(state: MeanState, divisor: float = 1.0) -> MeanState:
        if not state.waiting:
            return state
        sums.add(state.total, state.waiting, begun=state.begun, divisor=divisor)
        state.waiting.clear()
        return state._replace(begun=True)

    def finish(state: MeanState) -> NamedTensors:
        if state.weight == 0:
            raise ValueError("nothing to average: no update was folded")
        if state.waiting:
            return add_waiting(state, state.weight).total
        state.total.array /= state.weight
        return state.total

    return Aggregator(init, fold, finish, name="fedavg")
