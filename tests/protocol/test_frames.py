"""Headers: every message comes back as it went, and nothing else gets in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgpack
import pytest
from examples import DIRECTIONS, TYPES, example
from hypothesis import given
from hypothesis import strategies as st

from fedmq.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from fedmq.protocol import messages as m
from fedmq.protocol.frames import MAX_HEADER_NBYTES, Codec, tag
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CODECS = {direction: Codec(kinds) for direction, kinds in DIRECTIONS.items()}
IDS = [f"{direction}: {kind.__name__}" for direction, kind in TYPES]
UP, DOWN = CODECS["control to coordinator"], CODECS["control to worker"]
OFFER = UP.encode(example(m.Offer))


def refusal(codec: Codec, header: bytes) -> str:
    """The code that `header` is refused with."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(header)
    assert len(str(caught.value)) < 300, "the message does not repeat what the peer sent"
    return caught.value.code


@pytest.mark.parametrize(("direction", "kind"), TYPES, ids=IDS)
def test_round_trip(direction: str, kind: type) -> None:
    message = example(kind)
    assert CODECS[direction].decode(CODECS[direction].encode(message)) == message


@pytest.mark.parametrize("kind", [m.Hello, m.Offer])
def test_golden_bytes(kind: type) -> None:
    """Wire bytes of protocol 7. Bytes that change need a new PROTOCOL_VERSION, and new golden files."""
    golden = bytes.fromhex((GOLDEN / f"{tag(kind)}_v7.hex").read_text())
    assert UP.encode(example(kind)) == golden
    assert UP.decode(golden) == example(kind)


def test_optional_fields_travel_as_nil() -> None:
    message = dataclasses.replace(example(m.Heartbeat), task=None)
    assert UP.decode(UP.encode(message)) == message


def test_every_task_kind_travels() -> None:
    for work in (InitWork, TrainWork, EvaluateWork, GenerateWork):
        task = dataclasses.replace(
            example(m.Task), work=example(work), client=None, adapter=None, follows=None, delta=None, merged=None
        )
        assert DOWN.decode(DOWN.encode(m.Tasks((task,)))) == m.Tasks((task,))


# --- what we would send wrongly --------------------------------------------------------------------


def test_a_message_of_another_direction_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="cannot send welcome here; known: .*hello"):
        UP.encode(example(m.Welcome))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    welcome = dataclasses.replace(example(m.Welcome), data_dir="x" * MAX_HEADER_NBYTES)
    with pytest.raises(LocalProtocolError, match=f"welcome takes .* at most {MAX_HEADER_NBYTES} are allowed"):
        DOWN.encode(welcome)


def test_the_largest_messages_are_sent() -> None:
    """What the fields' own limits allow fits into a header, whatever the characters."""
    client = dataclasses.replace(
        example(m.HostedClient), client="client_" + "x" * 57, num_examples=2**53 - 1, num_tokens=2**53 - 1
    )
    unit = "client_" + "x" * 55
    names = tuple(f"{'a' * 16}-{'9' * 9}-{unit}{k:02d}-{'9' * 6}" for k in range(64))
    ready = dataclasses.replace(
        example(m.Ready), clients=(client,) * 1024, device="\U0001f600" * 256, running=names, outbox=names
    )
    delta = dataclasses.replace(example(m.DeltaRef), bases=("f" * 64,) * 16)
    training = dataclasses.replace(example(m.Task), work=example(TrainWork), seed=2**53 - 1, delta=delta)
    group = m.Tasks(
        tuple(dataclasses.replace(training, task=task, client=f"{unit}{k:02d}") for k, task in enumerate(names))
    )
    assert DOWN.decode(DOWN.encode(group)) == group
    generated = dataclasses.replace(example(m.Generated), texts=("\U0001f600" * 4000,) * 16)
    for message in (ready, generated):
        assert UP.decode(UP.encode(message)) == message


# --- what a peer may send --------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "kind"), TYPES, ids=IDS)
def test_truncated_and_trailing(direction: str, kind: type) -> None:
    codec, header = CODECS[direction], CODECS[direction].encode(example(kind))
    for nbytes in range(len(header)):
        assert refusal(codec, header[:nbytes]) == "MALFORMED"
    for more in (b"\0", b"\xc0", header):
        assert refusal(codec, header + more) == "MALFORMED"


def test_size_is_looked_at_first() -> None:
    assert refusal(UP, b"\x80" * (MAX_HEADER_NBYTES + 1)) == "TOO_LARGE"


@pytest.mark.parametrize("version", [0, 1, 2, 999, -1, 2**63, True, 1.0, "1", None, [1], b"1"])
def test_another_version(version: Any) -> None:
    fields = msgpack.unpackb(OFFER)
    with pytest.raises(VersionMismatch, match=f"this is {m.PROTOCOL_VERSION}") as caught:
        UP.decode(msgpack.packb(fields | {"v": version}))
    assert caught.value.exit_code == 4


def test_no_version() -> None:
    fields = msgpack.unpackb(OFFER)
    del fields["v"]
    with pytest.raises(VersionMismatch):
        UP.decode(msgpack.packb(fields))


def test_a_version_that_is_looked_at_before_the_rest() -> None:
    """A later protocol may have other types and fields: its speaker is told of the version, not of those."""
    with pytest.raises(VersionMismatch, match="peer speaks protocol 8"):
        UP.decode(msgpack.packb({"v": 8, "t": "unheard_of", "more": [1]}))


@pytest.mark.parametrize("name", ["unheard_of", "", "Offer", "offer\n", "x" * 10_000, "welcome"])
def test_an_unknown_type(name: str) -> None:
    """Also one of the other direction: a worker does not welcome."""
    assert refusal(UP, msgpack.packb(msgpack.unpackb(OFFER) | {"t": name})) == "UNKNOWN_TYPE"


@pytest.mark.parametrize("header", [b"", b"\xc0", b"\x01", b"\x90", b"\x80", b"\xa1x", msgpack.packb({"v": 7, "t": 1})])
def test_no_map_or_no_type(header: bytes) -> None:
    assert refusal(UP, header) == "MALFORMED"


@given(st.binary(max_size=400))
def test_any_bytes(header: bytes) -> None:
    for codec in CODECS.values():
        refusal(codec, header)


@given(st.data())
def test_any_byte_changed(data: st.DataObject) -> None:
    """A changed byte gives a refusal, or another message that encodes to exactly these bytes."""
    direction, kind = data.draw(st.sampled_from(TYPES))
    codec, header = CODECS[direction], bytearray(CODECS[direction].encode(example(kind)))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = codec.decode(bytes(header))
    except RemoteProtocolError:
        return
    assert codec.encode(message) == bytes(header)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_in_any_field(data: st.DataObject) -> None:
    direction, kind = data.draw(st.sampled_from(TYPES))
    codec = CODECS[direction]
    fields = msgpack.unpackb(codec.encode(example(kind)))
    name = data.draw(st.sampled_from(sorted(fields)))
    header = msgpack.packb(fields | {name: data.draw(_VALUES)})
    try:
        message = codec.decode(header)
    except RemoteProtocolError:
        return
    assert codec.encode(message) == header
