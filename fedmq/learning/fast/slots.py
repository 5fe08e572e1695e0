"""Where attention finds the heads of each packed text, and where their rows go back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedmq.learning.fast.packed import Packed, on_device


@dataclass(frozen=True)
class Slots:
    """The places of n rows of queries, keys and values in buckets of texts, each padded to its bucket's longest.

    Everything is counted in rows of one head. A bucket of t texts of up to l tokens holds its queries, keys and values
    one after another, each (t, heads of its kind, l); so all products of a bucket are one, and nothing is transposed.

    Attributes:
      heads, key_heads: a key head serves heads / key_heads heads that stand together.
      shapes: (t, l) of each bucket.
      take: int64 (s * (heads + 2 key_heads),): for each place its row of qkv, (n * (heads + 2 key_heads), size); for
        padding one of the same text.
      taken: int64 (n * (heads + 2 key_heads),): the place of each row, the other way.
      give, given: the same for the heads' outputs: int64 (s * heads,) and (n * heads,).
      padding: bool (s * heads, 1), True where the output's place belongs to no token.
    """

    heads: int
    key_heads: int
    shapes: tuple[tuple[int, int], ...]
    take: torch.Tensor
    taken: torch.Tensor
    give: torch.Tensor
    given: torch.Tensor
    padding: torch.Tensor

    def parts(self, taken: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Views of each bucket: queries (t * key_heads, l * heads / key_heads, size), keys and values (.., l, size)."""
        views, start = [], 0
        for texts, longest in self.shapes:
            kinds = []
            for count in (self.heads, self.key_heads, self.key_heads):
                end = start + texts * count * longest
                kinds.append(taken[start:end].view(texts * self.key_heads, -1, taken.shape[1]))
                start = end
            views.append((kinds[0], kinds[1], kinds[2]))
        return views

    def outputs(self, mixed: torch.Tensor) -> list[torch.Tensor]:
        """Views of each bucket's outputs, shaped as its queries."""
        parts = mixed.split([texts * self.heads * longest for texts, longest in self.shapes])
        return [
            part.view(texts * self.key_heads, -1, mixed.shape[1])
            for part, (texts, _) in zip(parts, self.shapes, strict=True)
        ]


def slots(packed: Packed, heads: int, key_heads: int) -> Slots:
    """Places for the buckets of `packed`.

    Example:
      >>> from fedmq.learning.fast.packed import pack
      >>> found = slots(pack([[np.array([5, 6, 7]), np.array([8, 7])]]), heads=1, key_heads=1)
      >>> found.shapes, found.give.tolist(), found.given.tolist()
      (((2, 3),), [0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4])
    """
    lengths = np.array(packed.lengths)
    starts = np.cumsum(lengths) - lengths
    per_row = heads + 2 * key_heads
    take, give, no_token, no_output, shapes = [], [], [], [], []
    for bucket in map(list, packed.buckets):
        sizes = lengths[bucket, None, None]
        place = np.arange(sizes.max())
        # Padding repeats the text's own last row: weights of 0 do not stop what is no number, and a client whose
        # training diverges must not reach the others.
        rows, empty = starts[bucket, None, None] + np.minimum(place, sizes - 1), place >= sizes
        shapes.append((len(bucket), len(place)))
        for first, count in ((0, heads), (heads, key_heads), (heads + key_heads, key_heads)):
            take.append(rows * per_row + np.arange(first, first + count)[:, None])
            no_token.append(empty.repeat(count, 1))
        give.append(rows * heads + np.arange(heads)[:, None])
        no_output.append(empty.repeat(heads, 1))

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([array.ravel() for array in arrays])

    device, padding = str(packed.ids.device), joined(no_output)
    return Slots(
        heads=heads,
        key_heads=key_heads,
        shapes=tuple(shapes),
        take=on_device(joined(take), device),
        taken=on_device(_places(joined(take), joined(no_token)), device),
        give=on_device(joined(give), device),
        given=on_device(_places(joined(give), padding), device),
        padding=on_device(padding[:, None], device),
    )


def _places(rows: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """The place of each row."""
    filled = np.flatnonzero(~padding)
    places = np.empty_like(filled)
    places[rows[filled]] = filled
    return places
