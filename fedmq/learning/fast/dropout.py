"""Dropout whose masks depend on the client, the step and the layer alone, not on who is computed beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedmq.learning.fast.packed import Packed

_LEVELS = 1 << 16


class Dropout:
    """The masks of one forward pass over packed texts of K clients.

    A client's masks come from its own streams, one for each layer, so that a layer that is computed
    again (gradient checkpointing) gets the same, and so does a client in other company (but for batches
    that were cut for want of memory). The probability of keeping is rounded to a multiple of 2^-16, and
    what is kept is divided by it: numpy's SFC64 with 16 bits for each decision takes a tenth of the
    time of torch's Bernoulli draws on a CPU.

    Args:
      seeds: of each client, 32 bits.
      step: number of the forward pass in the client's training.
      packed: the texts.
    """

    def __init__(self, seeds: Sequence[int], step: int, packed: Packed) -> None:
        self.seeds, self.step, self.packed = seeds, step, packed
        self._streams: list[np.random.SFC64] = []

    def enter(self, layer: int) -> None:
        """Begin a layer's masks; -1 is the embedding."""
        self._streams = [np.random.SFC64([seed, self.step, layer + 1]) for seed in self.seeds]

    def rows(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """The factors for x (n, width): 0 with probability p, else 1 / (1 - p), float32 on the device of x."""
        width, bounds = x.shape[1], self.packed.bounds
        bits = [self._bits(k, (bounds[k + 1] - bounds[k]) * width) for k in range(len(self.seeds))]
        return _factors(np.concatenate(bits).reshape(x.shape), p, x.device)

    def attention(self, num_heads: int, p: float, device: torch.device) -> list[torch.Tensor]:
        """The factors for each bucket's attention weights: float32 (texts, num_heads, longest, longest)."""
        packed = self.packed
        squares: list[np.ndarray] = []
        for k, (start, end) in enumerate(zip(packed.text_bounds, packed.text_bounds[1:], strict=False)):
            sizes = [num_heads * packed.lengths[text] ** 2 for text in range(start, end)]
            squares += np.split(self._bits(k, sum(sizes)), np.cumsum(sizes)[:-1]) if sizes else []
        masks = []
        for bucket in packed.buckets:
            longest = packed.lengths[bucket[0]]
            mask = np.zeros((len(bucket), num_heads, longest, longest), np.int16)
            for row, text in enumerate(bucket):
                length = packed.lengths[text]
                mask[row, :, :length, :length] = squares[text].reshape(num_heads, length, length)
            masks.append(_factors(mask, p, device))
        return masks

    def _bits(self, k: int, count: int) -> np.ndarray:
        return self._streams[k].random_raw((count + 3) // 4).view(np.int16)[:count]


def _factors(bits: np.ndarray, p: float, device: torch.device) -> torch.Tensor:
    kept = round((1 - p) * _LEVELS)
    drawn = torch.from_numpy(bits).to(device, non_blocking=True)
    # Signed 16 bits: below this value lie `kept` of the 2^16 levels.
    return (drawn < kept - _LEVELS // 2).float().mul_(_LEVELS / kept)
