"""Memory of processes that handle an adapter a round: kept once it was had."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Keep what is freed for the next adapter instead of giving it back to the kernel.

    glibc returns every larger block at once, and the next one then costs a page fault every 4 KiB, which
    is more than the arithmetic on it (`benchmarks/bench_round.py`). What the process holds is bounded by its
    peak. For processes of our own only; does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_TOP_PAD, 1 << 26)
