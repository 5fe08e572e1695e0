"""A coordinator for a test to talk to; and of bad input, that it costs little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from conducting import Bench

_MOST = 32 << 20


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """What Python and numpy hold at their peak in this test, the coordinator's and the peer's own, is below 32 MiB."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _MOST, f"{peak / 2**20:.0f} MiB"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Of one round with one client; its test plays the workers."""
    bench = Bench(tmp_path)
    yield bench
    bench.close()
