"""Dropout whose masks a card computes by itself: a hash of the client, the step, the layer and the place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

_LEVELS = 1 << 32
#: Places of a text, in the numbers of its weights; a larger one's numbers come again, which does no harm.
_LONGEST = 1024
#: All of `_computed` in one kernel, of 32 bits; the factor comes out as the bits of a float.
_KERNEL = """
template <typename T> T factor(T number, T first, T second, T kept, T scale) {
    unsigned int x = (unsigned int)number + (unsigned int)first;
    x = (x ^ x >> 15) * 0x7FEB352Du ^ (unsigned int)second;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return (x ^ x >> 16) < (unsigned int)kept ? scale : 0;
}
"""


class CardDropout:
    """The masks of one forward pass over a grid of texts of K clients, as `Dropout` has them for packed ones.

    A client's masks depend on its own keys, the layer and the place in its own rows or texts, and on nothing else: not
    on the grid's shape, nor on the clients beside it. They are others than `Dropout` draws from the same seeds: numpy's
    streams are made on the host, which takes a card ten times as long as all the rest of a step.

    Args:
      keys: int64 (K, 2) of 32 bits each, from `keys_of`.

    Reference: two rounds of multiplying and shifting, as the hash `lowbias32` (Ellis, hash-prospector), with a key
      before each. The kernel is compiled by torch (torch.cuda.jiterator) when the first is wanted.
    """

    def __init__(self, keys: torch.Tensor) -> None:
        self._keys = keys
        self._site = 0

    def enter(self, layer: int) -> None:
        """Begin a layer's masks; -1 is the embedding."""
        self._site = (layer + 1) << 8

    def rows(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """The factors for x (K S, width): 0 with probability p, else 1 / (1 - p), float32 on the device of x."""
        number = torch.arange(len(x) // len(self._keys) * x.shape[1], device=x.device)
        return self._factors(number, p).view(x.shape)

    def attention(self, shape: tuple[int, int, int], p: float) -> torch.Tensor:
        """The factors for attention's weights: (K T, heads, longest) -> float32 (K T, heads, longest, longest)."""
        texts, heads, longest = shape
        device = self._keys.device
        place = torch.arange(longest, device=device)
        head = torch.arange(texts // len(self._keys) * heads, device=device)
        number = ((head * _LONGEST)[:, None, None] + place[:, None]) * _LONGEST + place
        return self._factors(number.flatten(), p).view(texts, heads, longest, longest)

    def _factors(self, number: torch.Tensor, p: float) -> torch.Tensor:
        """For each client and number; float32 (K, numbers)."""
        self._site += 1
        first, second = self._keys[:, :1], (self._keys[:, 1:] ^ self._site * 0x9E3779B1) & _LEVELS - 1
        kept = min(_LEVELS - 1, round((1 - p) * _LEVELS))
        return (_on_card if number.is_cuda else _computed)(number, first, second, kept)


def _computed(number: torch.Tensor, first: torch.Tensor, second: torch.Tensor, kept: int) -> torch.Tensor:
    x = number + first & _LEVELS - 1
    x = (x ^ x >> 15) * 0x7FEB352D & _LEVELS - 1 ^ second
    x = (x ^ x >> 15) * 0x846CA68B & _LEVELS - 1
    return (x ^ x >> 16 < kept).float().mul_(_LEVELS / kept)


def _on_card(number: torch.Tensor, first: torch.Tensor, second: torch.Tensor, kept: int) -> torch.Tensor:
    bits = int(np.float32(_LEVELS / kept).view(np.int32))
    kernel = _kernel()
    found: torch.Tensor = kernel(*(x.to(torch.int32) for x in (number, first, second)), kept=_signed(kept), scale=bits)
    return found.view(torch.float32)


@functools.cache
def _kernel() -> Callable[..., torch.Tensor]:
    made: Callable[..., torch.Tensor] = torch.cuda.jiterator._create_jit_fn(_KERNEL, kept=0, scale=0)
    return made


def _signed(bits: int) -> int:
    return bits - _LEVELS if bits >= _LEVELS // 2 else bits


def keys_of(seeds: Sequence[int], step: int) -> np.ndarray:
    """The keys of clients in a forward pass: int64 (K, 2), of 32 bits each."""
    return np.array([np.random.SeedSequence([seed, step]).generate_state(2) for seed in seeds]).astype(np.int64)
