"""Sums of weighted differences from one base, of several updates in one pass over the sums.

Each number is (s + w_1 (x_1 - b) + w_2 (x_2 - b) + ...) / d, from left to right in float64, every product rounded
before it is added. numpy and compiled code (numba, the extra `[fast]`) both keep to that: their bits are the same.
Compiled code reads the sums and the base once for `AT_ONCE` updates, on the caller's thread and one more.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fedmq.tensors import Difference, NamedTensors, side_by_side

#: Updates that are added in one pass: as many as compiled code takes.
AT_ONCE = 12
#: What those that wait for a pass may hold, in bytes; two of any size wait.
_WAITING_NBYTES = 1 << 26
#: Numbers that numpy adds before anything is compiled: importing numba and compiling take about as long (0.7 s).
_PAYS_AFTER = 1 << 28
#: Numbers of a tensor that numpy adds at a time: what it makes of them stays in a processor's cache.
_PIECE = 1 << 16
#: Numbers that a thread takes at a time of what is added by compiled code.
_THREAD_PIECE = 1 << 17
_FLOAT32 = np.dtype(np.float32)

#: (sums, base, trained, weights, begun, divisor), flat: sums = ((sums if begun else 0) + w_k (x_k - b)) / divisor
Kernel = Callable[[np.ndarray, np.ndarray, Sequence[np.ndarray], Sequence[float], bool, float], None]


def at_once(like: NamedTensors) -> int:
    """How many updates like this one are to be added in one pass: 2 to `AT_ONCE`, of 64 MiB where more than two.

    Example:
      >>> at_once({"w": np.zeros(1 << 20)}), at_once({"w": np.zeros(1 << 22)})
      (12, 4)
    """
    nbytes = 4 * sum(value.size for value in like.values())
    return max(2, min(AT_ONCE, _WAITING_NBYTES // max(1, nbytes)))


class WeightedSum:
    """Adds updates to sums: with numpy, and from when so much was added that compiling pays, with compiled code.

    Example:
      >>> sums, base = {"w": np.zeros(2)}, {"w": np.ones(2, np.float32)}
      >>> trained = {"w": np.array([2.0, 5.0], np.float32)}
      >>> WeightedSum().add(sums, [(Difference(trained, base), 3.0), (Difference(base, base), 1.0)], divisor=4.0)
      >>> sums["w"]
      array([0.75, 3.  ])
    """

    def __init__(self) -> None:
        self._numbers = 0

    def add(
        self,
        sums: NamedTensors,
        updates: Sequence[tuple[Difference, float]],
        begun: bool = True,
        divisor: float = 1.0,
    ) -> None:
        """sums += w_k (x_k - b) for each update in turn; then sums /= divisor.

        Args:
          sums: float64, contiguous, that began as zeros; of the updates' names and shapes.
          updates: 1 to `AT_ONCE` differences x_k - b and their weights; b is the same object in all.
          begun: False where the sums were not written to yet, and count as zeros.
          divisor: of the sums that come of it; 1.0 leaves their bits.
        """
        self._numbers += len(updates) * sum(total.size for total in sums.values())
        pays = self._numbers >= _PAYS_AFTER or compiled.cache_info().currsize > 0
        add_at_once(compiled() if pays else None, sums, updates, begun, divisor)


def add_at_once(
    fast: Kernel | None,
    sums: NamedTensors,
    updates: Sequence[tuple[Difference, float]],
    begun: bool = True,
    divisor: float = 1.0,
) -> None:
    """The same by `fast`, of tensors that are float32, and by numpy of others."""
    weights, missing = [weight for _, weight in updates], AT_ONCE - len(updates)
    for total, b, *trained in side_by_side(sums, updates[0][0].b, *[difference.a for difference, _ in updates]):
        if fast is not None and all(x.dtype == _FLOAT32 and x.flags.aligned for x in (b, *trained)):
            # In place of missing ones is the base: 0 (b - b) is +0, which changes no sum that began as +0.
            fast(total, b, (*trained, *[b] * missing), (*weights, *[0.0] * missing), begun, divisor)
        else:
            add_with_numpy(total, b, trained, weights, begun, divisor)


def add_with_numpy(
    sums: np.ndarray,
    base: np.ndarray,
    trained: Sequence[np.ndarray],
    weights: Sequence[float],
    begun: bool,
    divisor: float,
) -> None:
    """A `Kernel` in numpy, for any number of updates."""
    for start in range(0, sums.size, _PIECE):
        piece = slice(start, start + _PIECE)
        # As float64 before the subtraction: within it, numpy converts in small pieces, which is slower.
        total, wide = sums[piece], base[piece].astype(np.float64)
        product = np.empty_like(wide)
        if not begun:
            total[:] = 0
        for x, weight in zip(trained, weights, strict=True):
            np.copyto(product, x[piece])
            product -= wide
            product *= weight
            total += product
        total /= divisor


def loop(
    sums: np.ndarray,
    base: np.ndarray,
    trained: Sequence[np.ndarray],
    weights: Sequence[float],
    begun: bool,
    divisor: float,
) -> None:
    """A `Kernel` to be compiled, for `AT_ONCE` updates: it reads them side by side, and a sum stays in a register."""
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11 = trained
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11 = weights
    for i in range(len(sums)):
        b = np.float64(base[i])
        s = sums[i] if begun else 0.0
        s = s + w0 * (x0[i] - b) + w1 * (x1[i] - b) + w2 * (x2[i] - b) + w3 * (x3[i] - b)
        s = s + w4 * (x4[i] - b) + w5 * (x5[i] - b) + w6 * (x6[i] - b) + w7 * (x7[i] - b)
        s = s + w8 * (x8[i] - b) + w9 * (x9[i] - b) + w10 * (x10[i] - b) + w11 * (x11[i] - b)
        sums[i] = s / divisor


@functools.cache
def second_thread() -> ThreadPoolExecutor:
    """The thread of this process that takes a share of every sum."""
    return ThreadPoolExecutor(1, "fedmq-sum")


@functools.cache
def compiled() -> Kernel | None:
    """`loop` in machine code, made at the first call; None where numba is not installed.

    Nothing is kept on disk: an installation may be read-only, and two coordinators would have to agree.
    """
    try:
        import numba
    except ImportError:
        return None
    numbers = numba.types.Array(numba.float32, 1, "C", readonly=True)
    trained, weights = (numba.types.UniTuple(kind, AT_ONCE) for kind in (numbers, numba.float64))
    signature = numba.void(numba.float64[::1], numbers, trained, weights, numba.boolean, numba.float64)
    # Without fastmath no product is fused with an addition, which would round once where numpy rounds twice.
    made = numba.njit(signature, nogil=True)(loop)

    def on_two_threads(sums: np.ndarray, base: np.ndarray, trained: Sequence[np.ndarray], *how: Any) -> None:
        pieces = iter(range(0, sums.size, _THREAD_PIECE))  # of both threads: the next goes to who is ready first

        def take() -> None:
            for start in pieces:
                piece = slice(start, start + _THREAD_PIECE)
                made(sums[piece], base[piece], tuple(x[piece] for x in trained), *how)

        helper = second_thread().submit(take) if sums.size > _THREAD_PIECE else None
        try:
            take()
        finally:
            deque(pieces, maxlen=0)  # also after Ctrl-C the other thread takes no more
            # Where cores are busy it may not have begun: then nothing is left for it.
            if helper is not None and not helper.cancel():
                helper.result()

    return on_two_threads
