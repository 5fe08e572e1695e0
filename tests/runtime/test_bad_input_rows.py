"""Rows B1 to B27, B38 and B39 of docs/bad-input.md: messages that are none, said to a coordinator at work.

Each row is sent by a worker that has said hello while another trains. It gives one of the named codes, takes little
memory and changes nothing, and the other worker ends the run as if nothing had been.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from conducting import (
    UP,
    Bench,
    Hand,
    Script,
    besides,
)

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import MAX_HEADER_NBYTES

pytestmark = pytest.mark.usefixtures("bounded_memory")
TASK, BLOB = "train-1-client_1-0", m.BlobRef("ab" * 32, 10)
OFFER = m.Offer(TASK, "cd" * 16, BLOB, 10, 100, 5, 2.5, 1.0, 0, "", False)
CLIENT = m.HostedClient("client_1", 10, 100, 0, "ab" * 32)
SAID = (
    *(m.Hello((m.PROTOCOL_VERSION,), "bad", "b" * 32), m.Ready((CLIENT,), False, "cd" * 32, 1, 2, "cpu", (), ())),
    *(m.Heartbeat(None, "idle", 0, 0), OFFER, m.Evaluated(TASK, "cd" * 16, 1.5, 1, 1, 0.5)),
    *(m.Generated(TASK, "cd" * 16, ("text",)), m.TaskFailed(TASK, "cd" * 16, "ERROR", "text"), m.Goodbye("text")),
)
PLAIN = [msgpack.unpackb(UP.encode(message)) for message in SAID]
GOOD = UP.encode(OFFER)
STRICT = {"INVALID", "NONCANONICAL"}


def changed(**fields: Any) -> list[bytes]:
    """The offer with other fields."""
    return [msgpack.packb(PLAIN[3] | fields)]


def each_field(*values: Any, of: type) -> list[bytes]:
    """Every message with each field of that type replaced by each value."""
    return [
        msgpack.packb(plain | {name: value})
        for plain in PLAIN
        for name, old in plain.items()
        for value in values
        if name not in ("v", "t") and type(old) is of
    ]


def each_type() -> list[bytes]:
    """Every message with each field replaced by values of all other types."""
    kinds, values = {type(v) for plain in PLAIN for v in plain.values()}, (True, 7, 1.5, "x", b"x", [], {}, {"a": 1})
    return [h for kind in kinds for v in values if type(v) is not kind for h in each_field(v, of=kind)]


def without_each_field() -> list[bytes]:
    return [
        msgpack.packb({key: value for key, value in plain.items() if key != name})
        for plain in PLAIN
        for name in plain.keys() - {"v", "t"}
    ]


def deep(depth: int) -> bytes:
    return b"\x83\xa1v\x07\xa1t\xa7goodbye\xa6reason" + b"\x91" * depth + b"\x90"


def of_value(*values: bytes) -> list[bytes]:
    """A goodbye whose reason is these bytes of msgpack."""
    return [b"\x83\xa1v\x07\xa1t\xa7goodbye\xa6reason" + value for value in values]


def noise() -> list[bytes]:
    return [random.Random(seed).randbytes(1 + 7 * seed) for seed in range(50)]


HEADERS: dict[str, tuple[Callable[[], list[bytes]], set[str]]] = {
    "B4 a header of a byte too many": (lambda: [b"\x80" * (MAX_HEADER_NBYTES + 1)], {"TOO_LARGE"}),
    "B5 an empty header": (lambda: [b""], {"MALFORMED"}),
    "B6 random bytes": (noise, {"MALFORMED"}),
    "B7 cut at every byte": (lambda: [GOOD[:n] for n in range(len(GOOD))], {"MALFORMED"}),
    "B8 a trailing byte": (lambda: [GOOD + b"\0", GOOD + b"\xc0", GOOD + GOOD], {"MALFORMED"}),
    "B9 an unknown type": (lambda: [*changed(t="shell"), *changed(t=""), *changed(t="x" * 10**4)], {"UNKNOWN_TYPE"}),
    "B10 each field missing": (without_each_field, {"INVALID"}),
    "B11 an extra field": (lambda: [msgpack.packb(plain | {"more": 1}) for plain in PLAIN], {"INVALID"}),
    "B12 each field of a wrong type": (each_type, STRICT),
    "B12 an int for a float": (lambda: [*changed(train_loss=2), *changed(train_seconds=2**60 + 1)], {"NONCANONICAL"}),
    "B13 ints out of range": (
        lambda: each_field(-1, 2**53, 2**63, 2**64 - 1, of=int),
        {"INVALID"},
    ),
    "B14 NaN and infinities": (
        lambda: each_field(float("nan"), float("inf"), -float("inf"), of=float),
        {"INVALID"},
    ),
    "B15 a duplicate key": (
        lambda: [b"\x84" + UP.encode(SAID[7])[1:] + b"\xa6reason" + b"\xa4text"],
        {"NONCANONICAL"},
    ),
    "B16 NUL, a mark of direction, a line break in a name": (
        lambda: [*changed(task=TASK + "\n"), *changed(task=TASK + "\0"), *changed(task="\u202e" + TASK)],
        {"INVALID"},
    ),
    "B16 names of 10^4 characters": (lambda: [*changed(task="x" * 10**4), *changed(nonce="c" * 10**4)], {"INVALID"}),
    "B16 invalid UTF-8": (lambda: of_value(b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80"), {"MALFORMED"}),
    "B17 nesting of 10^5": (lambda: [deep(10**5)], {"MALFORMED"}),
    "B17 nesting just below msgpack's limit": (lambda: [deep(1000)], {"INVALID"}),
    "B18 lengths of 2^32 - 1": (
        lambda: of_value(*(kind + b"\xff\xff\xff\xff" for kind in (b"\xdd", b"\xdf", b"\xc6", b"\xdb"))),
        {"MALFORMED"},
    ),
    "B19 ext and timestamp": (
        lambda: of_value(b"\xd4\x05x", b"\xd6\xff\0\0\0\0", b"\xc7\0\xff", b"\xc7\0\x05"),
        {"MALFORMED", "INVALID"},
    ),
    "B20 10^6 empty maps": (lambda: of_value(b"\xdd" + struct.pack(">I", 10**6) + b"\x80" * 10**6), {"TOO_LARGE"}),
    "B20 64 KiB of empty maps": (
        lambda: of_value(b"\xdd" + struct.pack(">I", 65_000) + b"\x80" * 65_000),
        {"MALFORMED"},
    ),
    "B21 version 0 and 999": (lambda: [*changed(v=0), *changed(v=999)], {"VERSION"}),
    "B22 the field run, which no message has: the nonce is of the run": (lambda: changed(run="ab" * 16), {"INVALID"}),
    "B23 the field ep, which no message up has: an answer may be of before a restart": (
        lambda: [*changed(ep=0), *changed(ep=2**53 - 1)],
        {"INVALID"},
    ),
    "B24 the field sid, which no message has: a link is its own session": (lambda: changed(sid="ab" * 16), {"INVALID"}),
    "B25 the field seq, which no message has": (lambda: [*changed(seq=0), *changed(seq=2**64 - 1)], {"INVALID"}),
    "B26 a message of the other role": (
        lambda: [*changed(t="welcome"), msgpack.packb({"v": 7, "t": "tasks", "tasks": []})],
        {"UNKNOWN_TYPE"},
    ),
    "B27 outbox and running of 65, 1,025 clients, 4,097 versions": (
        lambda: [
            *(msgpack.packb(PLAIN[1] | {name: [TASK] * 65}) for name in ("outbox", "running")),
            msgpack.packb(PLAIN[1] | {"clients": PLAIN[1]["clients"] * 1025}),
            msgpack.packb(PLAIN[0] | {"versions": [2] * 4097}),
        ],
        {"INVALID", "MALFORMED"},
    ),
    "B38 num_examples of -1, 10^18, 1.5, true": (
        lambda: [header for value in (-1, 10**18, 1.5, True) for header in changed(num_examples=value)],
        STRICT,
    ),
    "B39 17 metrics, and one of an odd name: there is no open map of them": (
        lambda: [*changed(metrics={str(k): 0.5 for k in range(17)}), *changed(**{"loss\n": 0.5})],
        {"INVALID"},
    ),
}


@pytest.mark.parametrize("row", HEADERS)
def test_headers(bench: Bench, row: str) -> None:
    make, codes = HEADERS[row]
    headers = make()
    for header in headers:
        with pytest.raises(RemoteProtocolError) as caught:
            UP.decode(header)
        assert caught.value.code in codes, header[:80]

    def act(honest: Hand, bad: Hand) -> Script:
        for header in headers[:100]:
            bad.inject(header)
        yield

    besides(bench, act, codes)
    if len(headers) >= 3 and codes != {"VERSION"}:
        assert bench.server.journal.get("quarantined"), "three strikes"


@pytest.mark.parametrize("row", ["B14 -0.0 and 1e308 are numbers"])
def test_floats_that_are_numbers(row: str) -> None:
    for value in (-0.0, 1e308):
        (header,) = changed(train_loss=value)
        assert str(UP.decode(header).train_loss) == str(value)


FRAMES: dict[str, tuple[bytes, ...]] = {
    "B1 no frame": (),
    "B2 a frame too many": (GOOD, b""),
    "B3 10^5 empty frames": (b"",) * 10**5,
}


@pytest.mark.parametrize("plane", ["control", "data"])
@pytest.mark.parametrize("row", FRAMES)
def test_frames(bench: Bench, row: str, plane: Any) -> None:
    frames = FRAMES[row] + ((b"",) if plane == "data" and len(FRAMES[row]) == 2 else ())

    def act(honest: Hand, bad: Hand) -> Script:
        bad.inject(*frames, plane=plane)
        yield

    besides(bench, act, {"MALFORMED"})
