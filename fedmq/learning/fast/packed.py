"""Texts one after another, without padding, and where attention finds each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

#: A text joins a bucket if it fills at least this part of the longest one's length.
_MIN_FILL = 0.5


@dataclass(frozen=True)
class Packed:
    """n tokens of t texts of K clients: the texts of a client stand together, the clients in order.

    Everything but attention works on the n rows as they are. Attention works on buckets of texts
    of like length, padded to the longest.

    Attributes:
      ids, positions: int64 (n,); the position counts from the start of each text.
      rows, targets: int64 (m,): `targets[j]` is the token to predict from row `rows[j]`. The last token of a text
        predicts nothing.
      lengths: tokens of each text.
      bounds: K + 1 row numbers; client k has the rows from bounds[k] to bounds[k + 1].
      target_bounds: K + 1 numbers, the same of `rows`.
      text_bounds: K + 1 numbers, the same of `lengths`.
      buckets: the texts of each bucket, by number, longest first.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    lengths: tuple[int, ...]
    bounds: tuple[int, ...]
    target_bounds: tuple[int, ...]
    text_bounds: tuple[int, ...]
    buckets: tuple[tuple[int, ...], ...]


def pack(clients: Sequence[Sequence[np.ndarray]], device: str = "cpu", first_position: int = 0) -> Packed:
    """Lay the texts of one or more clients end to end.

    Args:
      clients: for each client its texts, 1-D integer arrays of one token or more.
      device: where the tensors go.
      first_position: of each text, where what came before was read already.

    Example:
      >>> packed = pack([[np.array([5, 6, 7]), np.array([8, 7])]])
      >>> packed.ids.tolist(), packed.positions.tolist()
      ([5, 6, 7, 8, 7], [0, 1, 2, 0, 1])
      >>> packed.rows.tolist(), packed.targets.tolist()
      ([0, 1, 3], [6, 7, 7])
    """
    texts = [text for client in clients for text in client]
    lengths = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    ids = np.concatenate(texts).astype(np.int64)
    is_target = np.ones(len(ids), bool)
    is_target[starts] = False
    text_bounds = np.cumsum([0, *(len(client) for client in clients)])
    bounds = np.concatenate([[0], ends])[text_bounds]
    order = np.argsort(-lengths, kind="stable")
    buckets: list[list[int]] = []
    for text in order.tolist():
        if not buckets or lengths[text] < _MIN_FILL * lengths[buckets[-1][0]]:
            buckets.append([])
        buckets[-1].append(text)
    return Packed(
        ids=on_device(ids, device),
        positions=on_device(np.arange(len(ids)) - np.repeat(starts - first_position, lengths), device),
        rows=on_device(np.flatnonzero(is_target) - 1, device),
        targets=on_device(ids[is_target], device),
        lengths=tuple(lengths.tolist()),
        bounds=tuple(bounds.tolist()),
        target_bounds=tuple((bounds - text_bounds).tolist()),
        text_bounds=tuple(text_bounds.tolist()),
        buckets=tuple(tuple(bucket) for bucket in buckets),
    )


def on_device(array: np.ndarray, device: str) -> torch.Tensor:
    """A tensor of the array; towards a card it goes from pinned memory, without waiting."""
    value = torch.from_numpy(np.ascontiguousarray(array))
    return value if device == "cpu" else value.pin_memory().to(device, non_blocking=True)
