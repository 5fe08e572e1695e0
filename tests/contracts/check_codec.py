"""What every codec must keep; run on each. A codec is a pair (encode, decode)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from fedmq import tensors
from fedmq.errors import RemoteProtocolError


class CodecUnderTest(NamedTuple):
    """`lossless`: decoding gives the very bits that were encoded."""

    encode: Callable[[tensors.NamedTensors], bytes]
    decode: Callable[[bytes, tensors.Spec], dict[str, np.ndarray]]
    lossless: bool


def adapter(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of every awkward kind: a matrix, a transposed view, a scalar, an empty one."""
    draw = np.random.default_rng(seed)
    return {
        "z.lora_B": draw.normal(size=(8, 3)).astype(np.float32),
        "a.lora_A": draw.normal(size=(4, 6)).astype(np.float32).T,
        "m.strided": draw.normal(size=12).astype(np.float32)[::3],
        "scalar": np.array(draw.normal(), np.float32),
        "empty": np.zeros((0, 5), np.float32),
    }


def check_codec(codec: CodecUnderTest) -> None:
    """Run every check."""
    for check in (_round_trip, _order, _truncated, _flipped, _other_schema):
        check(codec)


def _round_trip(codec: CodecUnderTest) -> None:
    sent = adapter()
    got = codec.decode(codec.encode(sent), tensors.spec(sent))
    assert tensors.spec(got) == tensors.spec(sent)
    assert list(got) == sorted(sent)
    if codec.lossless:
        assert tensors.digest(got) == tensors.digest(sent)
    assert codec.encode(got) == codec.encode(codec.decode(codec.encode(got), tensors.spec(got)))


def _order(codec: CodecUnderTest) -> None:
    sent = adapter()
    assert codec.encode(dict(sorted(sent.items(), reverse=True))) == codec.encode(sent), "equal tensors, equal bytes"


def _truncated(codec: CodecUnderTest) -> None:
    sent = adapter()
    blob, spec = codec.encode(sent), tensors.spec(sent)
    for nbytes in range(len(blob)):
        with pytest.raises(RemoteProtocolError):
            codec.decode(blob[:nbytes], spec)
    with pytest.raises(RemoteProtocolError):
        codec.decode(blob + b"\0", spec)


def _flipped(codec: CodecUnderTest) -> None:
    """A flipped bit gives a refusal or other values; never another adapter or another exception."""
    sent = adapter()
    blob, spec = codec.encode(sent), tensors.spec(sent)
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << position % 8
        try:
            got = codec.decode(bytes(damaged), spec)
        except RemoteProtocolError:
            continue
        assert tensors.spec(got) == spec
        assert all(np.isfinite(value).all() for value in got.values())


def _other_schema(codec: CodecUnderTest) -> None:
    sent = adapter()
    blob = codec.encode(sent)
    for other in (
        {name: value for name, value in sent.items() if name != "scalar"},
        sent | {"more": np.zeros(1, np.float32)},
        sent | {"scalar": np.zeros(1, np.float32)},
        sent | {"z.lora_B": np.zeros((3, 8), np.float32)},
        sent | {"z.lora_B": np.zeros((8, 3), np.float64)},
    ):
        with pytest.raises(RemoteProtocolError, match="SCHEMA"):
            codec.decode(blob, tensors.spec(other))
