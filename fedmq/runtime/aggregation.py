"""From a round's updates to the next adapter: the rule, which may be a user's own, the step, and what is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.algorithms.lora_factors import pairs
from fedmq.algorithms.server_opt import ServerOptimizer
from fedmq.codec import raw
from fedmq.errors import FedmqError, LocalProtocolError, RunError
from fedmq.runtime.one_thread import one_blas_thread
from fedmq.tensors import NamedTensors


class Remembered(NamedTuple):
    """What the next round starts from, beside the adapter: one durable file, committed with the round.

    Attributes:
      optimizer: the server optimiser's state.
      aggregate: what the aggregation rule left, if it wants to know (`Aggregator.after`).
      residual: what the adapter is short of (`fedmq.codec.download.Published`).
    """

    optimizer: NamedTensors
    aggregate: NamedTensors
    residual: NamedTensors

    def encoded(self) -> bytes | None:
        """As one file; None when there is nothing."""
        parts = {f"{part}/{name}": value for part, held in self._asdict().items() for name, value in held.items()}
        return raw.encode(parts) if parts else None

    @classmethod
    def decoded(cls, content: bytes | None) -> Remembered:
        """What `encoded` was of."""
        found: dict[str, dict[str, np.ndarray]] = {part: {} for part in cls._fields}
        for name, value in raw.decode(content, raw.read_spec(content)).items() if content is not None else ():
            part, _, rest = name.partition("/")
            found[part][rest] = value
        return cls(**found)


NOTHING = Remembered({}, {}, {})


def require_enough(rule: Aggregator, round: int, count: int) -> None:
    """Raise RunError when a round has fewer updates than its rule needs: asked before the round is fixed for ever."""
    if count < rule.fewest:
        raise RunError(
            f"round {round}: {rule.label()} needs at least {rule.fewest} updates, the round has {count}: "
            "nothing of it is committed, --resume goes on with it"
        )


class Mean(NamedTuple):
    """What a rule made of a round.

    Attributes:
      delta: of the adapter, float64.
      left: for the next round.
      merged: to be added to the base (`Aggregator.merged`).
    """

    delta: NamedTensors
    left: NamedTensors
    merged: NamedTensors


def fold(
    rule: Aggregator, params: NamedTensors, updates: Iterable[tuple[Update, float]], round: int, last: NamedTensors
) -> Mean:
    """The mean of a round's updates, as its rule has it.

    Args:
      rule: of the run.
      params: the global adapter.
      updates: each with its weight, in the order of the client ids.
      round: for messages.
      last: what the rule left in the round before; empty when that is not known.

    Raises:
      RunError: the rule failed, or gave something else than finite tensors of the adapter's names and shapes.
    """
    with _answerable(rule, round):
        state = rule.init(params)
        if rule.after is not None and last:
            state = rule.after(state, last)
    for update, weight in updates:
        with _answerable(rule, round):
            state = rule.fold(state, update, weight)
    with _answerable(rule, round):
        left = {} if rule.left is None else rule.left(state)
        merged = {} if rule.merged is None else rule.merged(state)
        found = rule.finish(state)
        tensors.require_same_shapes(params, found)
        _require_factors(merged, params)
        if not all(np.isfinite(value).all() for value in (*found.values(), *left.values(), *merged.values())):
            raise ValueError("it gave NaN or infinity")
    return Mean(found, left if rule.left is not None else found if rule.after is not None else {}, merged)


def step(
    optimizer: ServerOptimizer, params: NamedTensors, delta: NamedTensors, state: NamedTensors, round: int
) -> tuple[dict[str, np.ndarray], NamedTensors]:
    """The next adapter, float32, and the optimiser's next state; `state` is empty before its first step.

    Raises:
      RunError: the step led to NaN or infinity.
    """
    stepped, after = optimizer.step(params, delta, state or optimizer.init(params))
    with np.errstate(over="ignore"):  # said below, in words that help
        adapter = tensors.astype(stepped, np.float32)
    if not all(np.isfinite(value).all() for value in adapter.values()):
        raise RunError(f"round {round}: the server's step gave NaN or infinity: lower the server's learning rate")
    return adapter, after


def rebased(
    rule: Aggregator, round: int, adapter: NamedTensors, state: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """What `step` gave, by other factors where the rule has it so (`Aggregator.rebased`): then the state is empty.

    Raises:
      RunError: the rule failed, or gave something else than finite tensors of the adapter's names, shapes and dtypes.
    """
    with _answerable(rule, round):
        found = rule.rebased(round, adapter)
        if found is None:
            return adapter, state
        if tensors.spec(found) != tensors.spec(adapter) or not all(np.isfinite(x).all() for x in found.values()):
            raise ValueError("it gave other factors than finite ones of the adapter's names, shapes and dtypes")
        return found, {}


def _require_factors(merged: NamedTensors, params: NamedTensors) -> None:
    """What is merged is committed with the round, and no worker could go on with anything else."""
    known = {name: pair for pair in pairs(params) for name in pair}
    for name, value in merged.items():
        if name not in known or not all(factor in merged for factor in known[name]):
            raise ValueError(f"it merges {name!r}, which is no factor of a pair of the adapter that it merges whole")
        a, b = (merged[factor] for factor in known[name])
        sides = params[known[name].a].shape[1], params[known[name].b].shape[0]
        if value.dtype != np.float32 or a.shape != (len(a), sides[0]) or b.shape != (sides[1], len(a)) or not len(a):
            raise ValueError(f"it merges {value.dtype} {value.shape} as {name!r}, expected float32 factors of one rank")


@contextmanager
def _answerable(rule: Aggregator, round: int) -> Iterator[None]:
    """What the rule raises becomes a RunError that names it; its products are made on one thread."""
    try:
        with one_blas_thread():
            yield
    except Exception as error:
        # The disk's failures say what to do themselves.
        if isinstance(error, FedmqError) and not isinstance(error, LocalProtocolError):
            raise
        kind = "" if isinstance(error, ValueError | LocalProtocolError) else f"{type(error).__name__}: "
        raise RunError(
            f"round {round}: the aggregation rule {rule.label()} failed: {kind}{' '.join(str(error).split())}; nothing "
            "of this round is committed: put that right and give the same command with --resume"
        ) from error
