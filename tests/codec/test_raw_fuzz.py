"""Adapter files by the million: nothing but RemoteProtocolError, and what passes has the expected tensors."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from mutation import mutants

from fedmq import tensors
from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError

ADAPTER = {
    "h.0.lora_A": np.arange(6, dtype=np.float32).reshape(2, 3),
    "h.0.lora_B": np.ones((3, 2), np.float32),
    "scale": np.array([-0.0], np.float32),
}
SPEC = tensors.spec(ADAPTER)
CORPUS = [raw.encode(ADAPTER), raw.encode({"a": np.zeros(2, np.float16), "b": np.ones((1, 1), np.float64)})]


def files(seed: int, count: int) -> Iterator[bytes]:
    """Every other one is changed in its header only, and has the length that goes with it: others end at once."""
    yield from mutants(CORPUS, seed, count // 2)
    for content in CORPUS:
        (nbytes,) = struct.unpack("<Q", content[:8])
        header, data = content[8 : 8 + nbytes], content[8 + nbytes :]
        compact = json.dumps(json.loads(header)).encode()
        for changed in mutants([header, compact], seed + 1, count // 4):
            yield struct.pack("<Q", len(changed)) + changed + data


def read(content: bytes) -> tensors.Spec | str:
    """What it declares, if it is an adapter of any run at all, or why not."""
    try:
        declared = raw.read_spec(content)
        raw.decode(content, declared)
    except RemoteProtocolError as error:
        return str(error)
    return declared


def survive(seed: int, count: int) -> int:
    """Read so many mutants; how many of them were adapters of this run."""
    passed = 0
    for content in files(seed, count):
        declared = read(content)
        assert len(declared) < 300, "a message does not repeat what the peer sent"
        try:
            decoded = raw.decode(content, SPEC)
        except RemoteProtocolError:
            continue
        passed += 1
        assert tensors.spec(decoded) == SPEC == declared
        assert all(np.isfinite(value).all() for value in decoded.values())
    return passed


def test_mutated_files() -> None:
    assert 0 < survive(1, 8000) < 4000


@pytest.mark.nightly
def test_a_million_mutated_files() -> None:
    survive(2, 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    survive(3, 1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "kilobytes"
