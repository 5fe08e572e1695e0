"""Packed texts in one of few shapes, for a card: what it does for one batch it has then recorded for the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedmq.learning.fast.packed import Packed
from fedmq.learning.fast.places import Places

#: Rows and places are rounded up to a multiple of this, larger ones to an eighth of their power of two.
_ROWS, _PLACES = 64, 16


class Shape(NamedTuple):
    """How much room a grid has.

    Attributes:
      clients: K.
      rows: S, of each client: its tokens and what is left over.
      texts: T, of each client.
      longest: L, places of each text; one more than it has tokens, at least.
    """

    clients: int
    rows: int
    texts: int
    longest: int


def shape_of(clients: Sequence[Sequence[np.ndarray]]) -> Shape:
    """The smallest shape that has room for these texts.

    Example:
      >>> shape_of([[np.arange(30)] * 8, [np.arange(90)]])
      Shape(clients=2, rows=256, texts=8, longest=96)
    """
    tokens = max(sum(map(len, texts)) for texts in clients)
    longest = max((len(text) for texts in clients for text in texts), default=0)
    texts = max(map(len, clients))
    return Shape(len(clients), _rounded(tokens, _ROWS), 1 << (texts - 1).bit_length(), _rounded(longest + 1, _PLACES))


class Grid:
    """Tensors of one shape on a device, to be filled with one batch after another.

    Each client has S rows: its texts end to end, then rows of token 0 that nobody looks at and nothing is learnt from:
    their targets weigh 0, and in attention they stand where a text has no token.

    Args:
      shape: the room.
      device: where the tensors are.

    Attributes:
      packed: ids, positions, rows and targets; `bounds` are equally far apart.
      places: of its rows, for attention.
      weights: float32 (K S,), of the targets.
      keys: int32 (K, 2), of the clients' dropout.
    """

    def __init__(self, shape: Shape, device: str) -> None:
        self.shape = shape
        rows, places = shape.clients * shape.rows, shape.clients * shape.texts * shape.longest
        sizes = [rows, rows, rows, rows, rows, places, places, 2 * shape.clients]
        pinned = device != "cpu"
        self._numbers = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=pinned)
        self._shares = torch.zeros(rows, dtype=torch.float32, pin_memory=pinned)
        self._on_device = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        self.weights = torch.zeros(rows, dtype=torch.float32, device=device)
        self._host = dict(zip(_NAMES, (part.numpy() for part in self._numbers.split(sizes)), strict=True))
        there = dict(zip(_NAMES, self._on_device.split(sizes), strict=True))
        bounds = tuple(range(0, rows + 1, shape.rows))
        texts = tuple(range(0, shape.clients * shape.texts + 1, shape.texts))
        self.packed = Packed(
            ids=there["ids"],
            positions=there["positions"],
            rows=there["rows"],
            targets=there["targets"],
            lengths=(),
            bounds=bounds,
            target_bounds=bounds,
            text_bounds=texts,
            buckets=(),
        )
        self.places = Places(
            shape.clients * shape.texts, shape.longest, there["take"], there["place"], there["empty"][:, None]
        )
        self.keys = there["keys"].view(shape.clients, 2)

    def fill(self, clients: Sequence[Sequence[np.ndarray]], weights: Sequence[float], keys: np.ndarray | None) -> None:
        """Take in a batch.

        Args:
          clients: for each client its texts, none in a step that it does not take part in; they fit the shape.
          weights: of each client's targets.
          keys: int64 (K, 2), of dropout.
        """
        _, size, slots, longest = self.shape
        host = self._host
        for name in ("ids", "positions", "targets"):
            host[name].fill(0)
        shares = self._shares.numpy()
        shares.fill(0)
        place = np.arange(longest)
        take = host["take"].reshape(-1, slots, longest)
        empty = host["empty"].reshape(-1, slots, longest)
        for k, texts in enumerate(clients):
            first, start = k * size, k * size
            # The last place of a text is no token's.
            own = slice(first, first + size)
            host["place"][own], host["rows"][own] = (k * slots + 1) * longest - 1, first
            take[k], empty[k] = first, 1
            target = first
            for t, text in enumerate(texts):
                count = len(text)
                end = start + count
                host["ids"][start:end], host["positions"][start:end] = text, place[:count]
                take[k, t], empty[k, t] = start + np.minimum(place, count - 1), place >= count
                host["place"][start:end] = (k * slots + t) * longest + place[:count]
                until = target + count - 1
                host["rows"][target:until] = np.arange(start, end - 1)
                host["targets"][target:until] = text[1:]
                shares[target:until] = weights[k]
                start, target = end, until
        host["keys"][:] = 0 if keys is None else keys.ravel()
        self._on_device.copy_(self._numbers, non_blocking=True)
        self.weights.copy_(self._shares, non_blocking=True)


_NAMES = ("ids", "positions", "rows", "targets", "place", "take", "empty", "keys")


def _rounded(count: int, least: int) -> int:
    step = max(least, (1 << max(0, count.bit_length() - 1)) // 8)
    return max(1, -(-count // step)) * step
