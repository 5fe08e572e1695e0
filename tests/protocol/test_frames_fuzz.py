"""Headers by the million: nothing but RemoteProtocolError, and what passes is what was meant."""

from __future__ import annotations

import resource

import pytest
from examples import DIRECTIONS, example
from mutation import mutants

from fedmq.errors import RemoteProtocolError
from fedmq.protocol.frames import Codec


def survive(direction: str, seed: int, count: int) -> int:
    """Decode so many mutants; how many of them were messages after all."""
    codec = Codec(DIRECTIONS[direction])
    corpus = [codec.encode(example(kind)) for kind in DIRECTIONS[direction]]
    passed = 0
    for header in mutants(corpus, seed, count):
        try:
            message = codec.decode(header)
        except RemoteProtocolError:
            continue
        passed += 1
        assert codec.encode(message) == header
    return passed


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mutated_headers(direction: str) -> None:
    assert 0 < survive(direction, 1, 4000) < 2000, "most are refused, and some changes change a value only"


@pytest.mark.nightly
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_million_mutated_headers(direction: str) -> None:
    survive(direction, 2, 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    survive(direction, 3, 1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "kilobytes"
