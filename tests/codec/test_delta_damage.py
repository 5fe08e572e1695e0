"""Encoded deltas against everything that a peer may send instead: nothing but RemoteProtocolError, no memory taken."""

from __future__ import annotations

import resource
import tracemalloc

import numpy as np
import pytest
import zstandard
from deltas import CODECS, gaussian, spec
from hypothesis import given
from hypothesis import strategies as st
from mutation import mutants

from fedmq import build, tensors
from fedmq.codec import zstd
from fedmq.errors import RemoteProtocolError

DELTA = {
    "h.0.lora_A": np.arange(6, dtype=np.float32).reshape(2, 3),
    "h.0.lora_B": -np.ones((3, 2), np.float32),
    "scale": np.array(-0.5, np.float32),
}
SPEC = spec(DELTA)
BLOBS = {name: codec.encode(DELTA, codec.init(DELTA))[0] for name, codec in CODECS.items()}
HEADER_NBYTES = 24
#: those whose payload, or the end of it, is a frame
FRAMED = ("bf16", "fp16", "int4", "topk")


def refusal(name: str, content: bytes, expected: tensors.Spec = SPEC) -> str:
    """The code that `content` is refused with."""
    with pytest.raises(RemoteProtocolError) as caught:
        CODECS[name].decode(content, expected)
    assert len(str(caught.value)) < 300, "the message does not repeat what the peer sent"
    return caught.value.code


@pytest.mark.parametrize("name", CODECS)
def test_no_header(name: str) -> None:
    blob = BLOBS[name]
    for content in (b"", b"\0", b"fedmq-d1", blob[: HEADER_NBYTES - 1], b"fedmq-d2" + blob[8:], b"\0" * 200):
        assert refusal(name, content) == "CODEC"


def test_bytes_of_another_codec() -> None:
    for name in CODECS:
        for other, blob in BLOBS.items():
            if other != name and (name, other) not in (("sign", "sign"),):
                assert refusal(name, blob) == "SCHEMA"


@pytest.mark.parametrize("name", CODECS)
def test_another_adapter(name: str) -> None:
    for other in (
        {**SPEC, "more": ("float32", (1,))},
        {tensor: kind for tensor, kind in SPEC.items() if tensor != "scale"},
        {**SPEC, "h.0.lora_A": ("float32", (3, 2))},
        {**SPEC, "scale": ("float32", (1,))},
        {**SPEC, "scale": ("float64", ())},
        {**SPEC, "\ud800": ("float32", (1,))},
        {},
    ):
        assert refusal(name, BLOBS[name], other) == "SCHEMA"


@pytest.mark.parametrize("name", CODECS)
def test_payloads_of_other_lengths(name: str) -> None:
    blob = BLOBS[name]
    for content in (blob + b"\0", blob + blob, blob[:-1], blob[:HEADER_NBYTES]):
        assert refusal(name, content) == "CODEC"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "<f4"), ("int8", "bf16"), ("sign", "<f4"), ("topk", "<f4")])
def test_values_and_scales_that_are_not_finite_or_negative(name: str, dtype: str) -> None:
    for value in (np.nan, np.inf, -np.inf, -1.0):
        content = bytearray(BLOBS[name])
        bits = np.array([value], np.float32).tobytes()
        content[HEADER_NBYTES : HEADER_NBYTES + (2 if dtype == "bf16" else 4)] = bits[2:] if dtype == "bf16" else bits
        if (name, value) != ("fp32", -1.0):
            assert refusal(name, bytes(content)) == ("NONFINITE" if name == "fp32" else "CODEC")


def test_a_scale_that_is_too_large() -> None:
    content = bytearray(BLOBS["int8"])
    content[HEADER_NBYTES : HEADER_NBYTES + 2] = np.array([3e38], np.float32).tobytes()[2:]
    assert refusal("int8", bytes(content)) == "NONFINITE"


@pytest.mark.parametrize("name", ["sign", "topk"])
def test_bits_beyond_the_last_value(name: str) -> None:
    content = bytearray(BLOBS[name])
    last = HEADER_NBYTES + 4 * len(DELTA) + (1 if name == "sign" else 0)
    content[last] |= 0x80
    assert refusal(name, bytes(content)) == "CODEC"


def test_a_nibble_beyond_the_last_value() -> None:
    codec, delta = build.codec("int4"), {"w": np.ones(3, np.float32)}
    payload = bytearray(zstd.expand(codec.encode(delta, {})[0][HEADER_NBYTES:], 0, 100))
    payload[-1] ^= 0x10
    with pytest.raises(RemoteProtocolError, match="beyond the last"):
        codec.decode(codec.encode(delta, {})[0][:HEADER_NBYTES] + zstd.compress(bytes(payload)), spec(delta))


@pytest.mark.parametrize(
    "gaps",
    [[5] * 3, [0, 0, 255], [255, 0, 0], [0, 0, 0, 0], [0, 0], [254, 254, 254], [0, 3, 20], [8, 0, 6]],
    ids=str,
)
def test_places_that_cannot_be(gaps: list[int]) -> None:
    """Of another tensor, past the end, no end of the last gap, too many, too few."""
    codec, head = CODECS["topk"], BLOBS["topk"][: HEADER_NBYTES + 4 * 3 + 1]
    assert codec.decode(head + zstd.compress(bytes([0, 5, 5])), SPEC)["scale"] != 0, "one place of each tensor"
    assert refusal("topk", head + zstd.compress(bytes(gaps))) == "CODEC"


def bombs() -> dict[str, bytes]:
    """Frames of a few bytes that would be a gibibyte, or say so, or do not say."""
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    silent = b"".join(compressor.compress(b"\0" * (1 << 20)) for _ in range(256)) + compressor.flush()
    compressor = zstandard.ZstdCompressor(level=19).compressobj(size=1 << 28)
    honest = b"".join(compressor.compress(b"\0" * (1 << 20)) for _ in range(256)) + compressor.flush()
    return {
        "it says what it is": honest,
        "it does not say": silent,
        "it says more than there is": b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x00" + b"\x01\x00\x00",
        "a window of a terabyte": b"\x28\xb5\x2f\xfd\x40\xff\x10\x00\x01\x00\x00",
        "a dictionary": b"\x28\xb5\x2f\xfd\x23\x07\x00\x00\x00\x12" + b"\x01\x00\x00",
        "a skippable frame": b"\x50\x2a\x4d\x18\x04\0\0\0aaaa",
    }


BOMBS = bombs()


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", FRAMED)
def test_bombs_are_refused_before_memory_is_taken(name: str, bomb: str) -> None:
    head = HEADER_NBYTES + (4 * len(DELTA) + 1 if name == "topk" else 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        assert refusal(name, BLOBS[name][:head] + BOMBS[bomb]) == "CODEC"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024, "kilobytes"


def test_a_frame_that_holds_less_than_it_says() -> None:
    frame = bytearray(zstd.compress(bytes(range(200))))
    assert frame[5] == 200
    frame[5] = 201
    with pytest.raises(RemoteProtocolError, match="CODEC"):
        zstd.expand(bytes(frame), 0, 300)


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=100))
def test_any_payload(name: str, payload: bytes) -> None:
    try:
        got = CODECS[name].decode(BLOBS[name][:HEADER_NBYTES] + payload, SPEC)
    except RemoteProtocolError:
        return
    assert tensors.spec(got) == SPEC
    assert all(np.isfinite(value).all() for value in got.values())


@given(st.sampled_from(FRAMED), st.binary(max_size=60))
def test_any_content_of_a_frame(name: str, content: bytes) -> None:
    head = HEADER_NBYTES + (4 * len(DELTA) + 1 if name == "topk" else 0)
    try:
        got = CODECS[name].decode(BLOBS[name][:head] + zstd.compress(content), SPEC)
    except RemoteProtocolError:
        return
    assert all(np.isfinite(value).all() for value in got.values())


def survive(seed: int, count: int) -> int:
    """Read so many mutants with each codec, the header mostly as it should be; how many of them were deltas."""
    passed, codes = 0, set()
    for name, codec in CODECS.items():
        head, payload = BLOBS[name][:HEADER_NBYTES], BLOBS[name][HEADER_NBYTES:]
        contents = [*mutants([BLOBS[name]], seed, count // 8)]
        contents += [head + changed for changed in mutants([payload], seed + 1, count - count // 8)]
        for content in contents:
            try:
                got = codec.decode(content, SPEC)
            except RemoteProtocolError as error:
                codes.add(error.code)
                continue
            passed += 1
            assert tensors.spec(got) == SPEC
            assert all(np.isfinite(value).all() for value in got.values())
    assert codes == {"CODEC", "SCHEMA", "NONFINITE"}
    return passed


def test_mutated_deltas() -> None:
    assert 0 < survive(1, 400) < 400 * len(CODECS) // 2


@pytest.mark.nightly
def test_a_million_mutated_deltas() -> None:
    survive(2, 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    survive(3, 1_000_000 // len(CODECS))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "kilobytes"


def test_the_bytes_are_those_of_yesterday() -> None:
    """A worker and a coordinator of one protocol version understand each other: a change needs another one."""
    assert BLOBS["sign"].hex() == "6665646d712d6431360cffed19373bd2e8340d6cfdac7883000020400000803f0000003f3f00"
    content, _ = build.codec("int8", block=4).encode({"w": np.array([127, -1, 0, 2, 254], np.float32)}, {})
    assert content.hex() == "6665646d712d64319048e2edccbfaa0ceb1dc2a2ea5f57a4803f00407fff00027f"


def test_a_large_delta_takes_memory_in_proportion() -> None:
    delta = gaussian(size=1 << 18)
    for name in ("int4", "sign", "topk", "bf16", "int8"):
        content, _ = CODECS[name].encode(delta, CODECS[name].init(delta))
        tracemalloc.start()
        try:
            CODECS[name].decode(content, spec(delta))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 24 * sum(value.size for value in delta.values()), name
