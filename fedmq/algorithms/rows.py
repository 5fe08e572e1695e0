"""The updates of a round as a matrix, one row a client: what rules need that compare all updates with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.tensors import NamedTensors, require_same_shapes, zeros_like

#: Values of all rows together that are read at a time, in bytes: long pieces of a file.
_READ_NBYTES = 1 << 26
#: Of these, what is worked on at a time: what stays in a processor's cache is sorted three times as fast.
_WORK_NBYTES = 1 << 20


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
    """The round as its rule sees it: n updates of P values, in the order of the client ids.

    Attributes:
      rows: one for each update; `blocks` reads them.
      weights: float64 (n,), each > 0.
      like: the global adapter that the updates are from.
      last: what the rule gave in the last round, float64 (P,); zeros in the first, and for a rule that is not told.
      version: the newest that an update was trained from.
    """

    rows: Rows
    weights: np.ndarray
    like: NamedTensors
    last: np.ndarray
    version: int = 0

    @property
    def size(self) -> int:
        """P."""
        return sum(value.size for value in self.like.values())

    def tensor(self, name: str) -> np.ndarray:
        """Every update of one tensor: float64 (n, *shape)."""
        start = sum(self.like[other].size for other in self.like if other < name)
        return self.rows.block(start, start + self.like[name].size).reshape(-1, *self.like[name].shape)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All values, so many columns at a time that memory stays bounded: their place, and float64 (n, columns)."""
        nbytes = 8 * len(self.weights)
        read, work = max(1, _READ_NBYTES // nbytes), max(1, _WORK_NBYTES // nbytes)
        for start in range(0, self.size, read):
            block = self.rows.block(start, min(self.size, start + read))
            for first in range(0, block.shape[1], work):
                piece = block[:, first : first + work]
                yield slice(start + first, start + first + piece.shape[1]), piece


class _State(NamedTuple):
    like: NamedTensors
    rows: Rows
    weights: list[float]
    last: np.ndarray | None
    version: int

    def matrix(self) -> Matrix:
        last = flat(zeros_like(self.like)) if self.last is None else self.last
        return Matrix(self.rows, np.array(self.weights), self.like, last, self.version)


def of_rows(
    rule: Callable[[Matrix], np.ndarray],
    fewest: int = 1,
    name: str = "",
    told_last: bool = False,
    merged: Callable[[Matrix], NamedTensors] | None = None,
) -> Aggregator:
    """An aggregator that gives the whole round to `rule`, which returns the delta, float64 (P,).

    Args:
      rule: matrix -> the delta. The values of a column are those of one number of the adapter.
      fewest: updates without which `finish` refuses.
      name: of the rule and its options, for messages; "" takes the function's.
      told_last: whether the rule wants to know what it gave in the last round (`Matrix.last`).
      merged: matrix -> `Aggregator.merged`.

    Example:
      >>> def largest(matrix):
      ...     found = np.empty(matrix.size)
      ...     for place, block in matrix.blocks():
      ...         found[place] = block.max(axis=0)
      ...     return found
      >>> rule = of_rows(largest)
      >>> state = rule.init({"w": np.zeros(2)})
      >>> for client, values in (("a", [1.0, 7.0]), ("b", [3.0, 5.0])):
      ...     state = rule.fold(state, Update(client, 0, 1, 1, {"w": np.array(values)}), 1)
      >>> rule.finish(state)
      {'w': array([3., 7.])}
    """

    called = name or f"{rule.__module__}.{rule.__qualname__}"

    def init(like: NamedTensors) -> _State:
        return _State(like, RowsInMemory(), [], None, 0)

    def fold(state: _State, update: Update, weight: float) -> _State:
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"need a finite weight > 0, got {weight} for client {update.client_id}")
        require_same_shapes(state.like, update.delta)
        state.rows.append(flat(update.delta))
        state.weights.append(float(weight))
        return state._replace(version=max(state.version, update.base_version))

    def finish(state: _State) -> NamedTensors:
        count = len(state.weights)
        if count == 0:
            raise ValueError("nothing to average: no update was folded")
        if count < fewest:
            raise ValueError(f"{called} needs at least {fewest} updates, and there are {count}")
        matrix = state.matrix()
        found = np.asarray(rule(matrix), np.float64)
        state.rows.close()
        if found.shape != matrix.last.shape:
            raise ValueError(f"{called} gave an array of shape {found.shape}, expected {matrix.last.shape}")
        return _named(found, state.like)

    def after(state: _State, last: NamedTensors) -> _State:
        require_same_shapes(state.like, last)
        return state._replace(last=flat(last))

    return Aggregator(
        init,
        fold,
        finish,
        fewest=fewest,
        after=after if told_last else None,
        name=called,
        merged=None if merged is None else lambda state: merged(state.matrix()),
    )


def kept_in(rule: Aggregator, make_rows: Callable[[], Rows]) -> Aggregator:
    """The same rule, with each round's updates in rows of this making; a rule that is not of `of_rows` keeps none."""

    def init(like: NamedTensors) -> object:
        state = rule.init(like)
        return state._replace(rows=make_rows()) if isinstance(state, _State) else state

    return rule._replace(init=init)


def flat(tensors: NamedTensors) -> np.ndarray:
    """All values in one row, by name: a resumed run may have read its names in another order, and sums would differ."""
    if not tensors:
        return np.empty(0)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)], dtype=np.float64)


def _named(row: np.ndarray, like: NamedTensors) -> NamedTensors:
    parts, start = {}, 0
    for name in sorted(like):
        parts[name] = row[start : start + like[name].size].reshape(like[name].shape)
        start += like[name].size
    return {name: parts[name] for name in like}
