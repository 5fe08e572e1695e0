"""The updates of a round as a matrix, one row a client: what rules need that compare all updates with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.tensors import NamedTensors, require_same_shapes

#: Values of all rows that are worked on at a time, in bytes.
_BLOCK_NBYTES = 1 << 25


class Rows(Protocol):
    """Rows of float64 values, all of one length, in the order in which they were appended."""

    def append(self, row: np.ndarray) -> None:
        """Keep a copy of a row, float64 (P,)."""

    def block(self, start: int, stop: int) -> np.ndarray:
        """The values from `start` to `stop` of every row: float64 (n, stop - start), the caller's own."""

    def close(self) -> None:
        """They are not needed any more."""


class RowsInMemory:
    """Rows as they are.

    Example:
      >>> rows = RowsInMemory()
      >>> rows.append(np.array([1.0, 2.0, 3.0]))
      >>> rows.block(1, 3)
      array([[2., 3.]])
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def append(self, row: np.ndarray) -> None:
        self._rows.append(row.copy())

    def block(self, start: int, stop: int) -> np.ndarray:
        return np.stack([row[start:stop] for row in self._rows])

    def close(self) -> None:
        self._rows = []


class Matrix(NamedTuple):
    """n updates of P values.

    Attributes:
      rows: one for each update.
      weights: of the updates, each > 0.
      size: P.
    """

    rows: Rows
    weights: list[float]
    size: int

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All values, so many columns at a time that memory stays bounded: their place, and float64 (n, columns)."""
        step = max(1, _BLOCK_NBYTES // (8 * max(1, len(self.weights))))
        for start in range(0, self.size, step):
            stop = min(self.size, start + step)
            yield slice(start, stop), self.rows.block(start, stop)


class _State(NamedTuple):
    like: NamedTensors
    matrix: Matrix


def of_rows(rule: Callable[[Matrix], np.ndarray], fewest: int, name: str) -> Aggregator:
    """An aggregator that gives the whole round to `rule`, which returns float64 (P,).

    Args:
      rule: matrix -> the delta.
      fewest: updates without which `finish` refuses.
      name: of the rule, for that message.
    """

    def init(like: NamedTensors) -> _State:
        return _State(like, Matrix(RowsInMemory(), [], sum(value.size for value in like.values())))

    def fold(state: _State, update: Update, weight: float) -> _State:
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"need a finite weight > 0, got {weight} for client {update.client_id}")
        require_same_shapes(state.like, update.delta)
        state.matrix.rows.append(np.concatenate([update.delta[n].ravel() for n in state.like], dtype=np.float64))
        state.matrix.weights.append(float(weight))
        return state

    def finish(state: _State) -> NamedTensors:
        count = len(state.matrix.weights)
        if count == 0:
            raise ValueError("nothing to average: no update was folded")
        if count < fewest:
            raise ValueError(f"{name} needs at least {fewest} updates, and there are {count}")
        flat, start, found = rule(state.matrix), 0, {}
        state.matrix.rows.close()
        for tensor, value in state.like.items():
            found[tensor] = flat[start : start + value.size].reshape(value.shape)
            start += value.size
        return found

    return Aggregator(init, fold, finish, fewest=fewest)


def kept_in(rule: Aggregator, make_rows: Callable[[], Rows]) -> Aggregator:
    """The same rule, one of `of_rows`, with each round's updates in rows of this making until `finish`."""

    def init(like: NamedTensors) -> _State:
        state: _State = rule.init(like)
        return state._replace(matrix=state.matrix._replace(rows=make_rows()))

    return rule._replace(init=init)
