"""The scripts of bench_transport.py run, each side and each direction, with what fedmq is today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import REPO

sys.path.insert(0, str(REPO / "benchmarks"))
from exchange import Exchange, measure

SMALL = Exchange(workers=2, nbytes=100_000, up=True, keys=False, times=2)
SIDES = {
    "plain": ("bench_transport.py", SMALL),
    "plain, hashed": ("bench_transport.py", SMALL._replace(checks="hashed")),
    "plain, kept": ("bench_transport.py", SMALL._replace(checks="kept")),
    "plain, keys": ("bench_transport.py", SMALL._replace(keys=True)),
    "fedmq": ("exchange_fedmq.py", SMALL),
    "fedmq, keys": ("exchange_fedmq.py", SMALL._replace(keys=True)),
    "fedmq, down only": ("exchange_fedmq.py", SMALL._replace(up=False)),
    "fedmq, no fsync": ("exchange_fedmq.py", SMALL._replace(without=("fsync", "sha256"))),
}


@pytest.mark.parametrize("side", SIDES)
def test_exchange(tmp_path: Path, side: str) -> None:
    script, exchange = SIDES[side]
    found = measure(REPO / "benchmarks" / script, exchange, tmp_path / "exchange")
    assert len(found.seconds) == exchange.times and min(found.seconds) > 0
    assert found.peak_mb >= found.before_mb > 0
