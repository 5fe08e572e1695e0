"""B1 to B39 of docs/bad-input.md: messages that are none, and messages that lie, said to a coordinator at work.

Each row is sent by a worker that has said hello while another trains. It gives one of the named codes and
changes nothing, and the other worker ends the run as if nothing had been.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from conducting import (
    DATA_UP,
    UP,
    Bench,
    Hand,
    Script,
    finishing,
    first_adapter,
    standing,
    task_in,
    training,
    update_of,
    verdicts,
)
from serving import adapter, offer

from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import MAX_HEADER_NBYTES
from fedmq.protocol.jobs import Status
from fedmq.runtime.intake import MAX_BLOB_NBYTES
from fedmq.runtime.tasks import task_nonce

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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def notes_of(bench: Bench, codes: set[str]) -> list[str]:
    return [note for note in bench.view.notes if any(f"refused: {code}" in note for code in codes)]


def besides(bench: Bench, act: Callable[[Hand, Hand], Script], codes: set[str]) -> None:
    """Let `act` happen while w0 trains: it gives one of these codes, if any is named, and costs nothing else."""
    honest, bad = bench.hand(), bench.hand("bad", boot="b")

    def script() -> Script:
        yield from training(honest)
        bad.hello()
        yield
        before = standing(bench)
        yield from act(honest, bad)
        assert standing(bench) == before
        assert bool(notes_of(bench, codes)) == bool(codes), bench.view.notes
        yield from finishing(honest)

    bench.play(script())
    assert bench.server.journal.last_committed() == 1
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w0"]


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


# --- who speaks, and when --------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["B26 hello twice, and a message before it"])
def test_hellos_out_of_place(bench: Bench, row: str) -> None:
    def act(honest: Hand, bad: Hand) -> Script:
        stranger = bench.hand("late", boot="c")
        stranger.say(m.Heartbeat(None, "idle", 0, 0))
        bad.hello()
        yield
        assert [reply.code for reply in stranger.heard()] == ["REHELLO"]
        assert [type(reply) for reply in bad.heard()] == [m.Welcome, m.Welcome], "a hello is answered each time"

    besides(bench, act, set())


def as_another(honest: Hand, bad: Hand) -> Script:
    bad.say(m.Hello((m.PROTOCOL_VERSION,), honest.name, "c" * 32))
    yield
    assert "NAME" in [reply.code for reply in bad.heard() if isinstance(reply, m.Reject)]


def on_its_link(honest: Hand, bad: Hand) -> Script:
    """What only w0 may say, on the link of another."""
    update, _ = update_of(honest, nonce="00" * 16)
    bad.say(update, m.TaskFailed(TASK, "00" * 16, "ERROR", "not mine"))
    yield


def again(honest: Hand, bad: Hand) -> Script:
    """The protocol numbers no messages: saying one again says nothing new."""
    beat = m.Heartbeat(TASK, "working", 0, 0)
    honest.say(beat, beat, beat)
    yield
    assert [type(reply) for reply in honest.heard()] == [m.HeartbeatAck] * 3


def nonced(task: str, **fields: Any) -> m.Offer:
    """An offer under the nonce that this task would have, which nobody can guess."""
    return offer(task, b"x" * 10, nonce=task_nonce("s", task), **fields)


def guessing(*tasks: str) -> Callable[[Hand, Hand], Script]:
    def act(honest: Hand, bad: Hand) -> Script:
        for task in tasks:
            bad.say(offer(task, b"x" * 10))
        yield

    return act


def knowing(task: str, verdict: str, **fields: Any) -> Callable[[Hand, Hand], Script]:
    def act(honest: Hand, bad: Hand) -> Script:
        bad.heard()
        bad.say(nonced(task, **fields))
        yield
        assert verdicts(bad.heard()) == [verdict]

    return act


def put(*puts: m.Put, payload: bytes = b"x") -> Callable[[Hand, Hand], Script]:
    def act(honest: Hand, bad: Hand) -> Script:
        for message in puts:
            bad.inject(DATA_UP.encode(message), payload, plane="data")
        yield

    return act


def a_late_piece(honest: Hand, bad: Hand) -> Script:
    """Pieces of the first adapter that was complete: no strike, whoever is slow does this."""
    content = raw.encode(adapter(0))
    stale = offer("init-0-adapter-0", content)
    for _ in range(20):
        honest.put(stale, content)
    yield


ACTS: dict[str, tuple[Callable[[Hand, Hand], Script], set[str]]] = {
    "B22 a nonce of another run": (guessing(TASK), {"NONCE"}),
    "B24 another worker's name on one's own link": (as_another, {"NAME"}),
    "B24 another worker's task on one's own link": (on_its_link, {"NONCE"}),
    "B25 the same again": (again, set()),
    "B28 an unknown round, guessed": (guessing("train-9-client_1-0", "evaluate-9-test-0"), {"NONCE"}),
    "B28 an unknown round, under its nonce": (knowing("train-9-client_1-0", "UNKNOWN_TASK"), set()),
    "B29 a future round": (guessing("train-2-client_1-0"), {"NONCE"}),
    "B29 a future round, under its nonce": (knowing("train-2-client_1-0", "UNKNOWN_TASK"), set()),
    "B30 a task that nobody gave": (guessing("train-1-client_2-0"), {"NONCE"}),
    "B30 a client that was not selected, under its nonce": (knowing("train-1-client_2-0", "LATE"), set()),
    "B31 a wrong nonce": (guessing(TASK), {"NONCE"}),
    "B32 another base: the round names it, and this one is over": (knowing("init-0-adapter-0", "LATE"), set()),
    "B35 a size of 0": (knowing(TASK, "INVALID", blob=m.BlobRef("ab" * 32, 0)), set()),
    "B35 a size beyond the limit": (knowing(TASK, "INVALID", blob=m.BlobRef("ab" * 32, MAX_BLOB_NBYTES + 1)), set()),
    "B37 bytes that nobody asked for": (put(m.Put("cd" * 16, "ab" * 32, 0)), {"PUT"}),
    "B37 bytes beyond the end of a blob": (put(m.Put("cd" * 16, "ab" * 32, 2**53 - 1)), {"PUT"}),
    "B37 bytes after the end of an upload": (a_late_piece, set()),
    "B38 a result of another kind": (
        lambda honest, bad: iter([bad.say(m.Evaluated(TASK, task_nonce("s", TASK), 0.5, 1, 1, 0.5))]),
        set(),
    ),
}


@pytest.mark.parametrize("row", ACTS)
def test_acts(bench: Bench, row: str) -> None:
    besides(bench, *ACTS[row])


@pytest.mark.parametrize("row", ["B33 the same task with another digest"])
def test_conflict(bench: Bench, row: str) -> None:
    hand, other = bench.hand(), bench.hand("w1", boot="b")

    def script() -> Script:
        yield from training(hand)
        other.ready()
        hand.say(update_of(hand)[0])
        yield
        assert verdicts(hand.heard()) == ["UPLOAD"]
        before = standing(bench)
        for seed in (2, 3):
            hand.say(offer(TASK, raw.encode(adapter(seed)), nonce=hand.task.nonce))
            yield
        assert standing(bench) == before and verdicts(hand.heard()) == [], "the first offer stands"
        assert notes_of(bench, {"CONFLICT"})
        hand.say(offer(TASK, raw.encode(adapter(4)), nonce=hand.task.nonce))
        yield
        assert [reply.code for reply in hand.heard()] == ["QUARANTINED"]
        other.task = task_in(other.heard())
        yield from finishing(other)

    bench.play(script())
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w1"]


@pytest.mark.parametrize("row", ["B34 the same digest again"])
def test_duplicate(tmp_path: Path, row: str) -> None:
    bench = Bench(tmp_path, clients=2)
    hand = bench.hand()
    hand.clients = ("client_1", "client_2")

    def script() -> Script:
        yield from first_adapter(hand)
        hand.task = task_in(hand.heard())
        yield from finishing(hand)
        assert verdicts(hand.said) == ["ACCEPTED"]
        before, next_task = standing(bench), task_in(hand.said)
        yield from finishing(hand)
        assert verdicts(hand.said) == ["DUPLICATE"] and standing(bench) == before
        hand.task = next_task
        yield from finishing(hand)

    bench.play(script())
    bench.close()
    assert [row["client"] for row in bench.server.journal.updates(1)] == ["client_1", "client_2"]


UPLOADS: dict[str, tuple[Callable[[m.Offer, bytes], list[tuple[m.Put, bytes]]], int]] = {
    "B35 more bytes than announced": (lambda u, c: [(m.Put(u.nonce, u.blob.digest, 0), c + b"more")], 0),
    "B36 bytes of another hash": (lambda u, c: [(m.Put(u.nonce, u.blob.digest, 0), b"!" * len(c))], 0),
    "B37 a piece twice": (lambda u, c: [(m.Put(u.nonce, u.blob.digest, 0), c[:9])] * 2, 9),
    "B37 a piece out of range": (lambda u, c: [(m.Put(u.nonce, u.blob.digest, 2**53 - 1), c)], 0),
    "B37 a piece under another's digest": (lambda u, c: [(m.Put(u.nonce, "ab" * 32, 0), c)], -1),
}


@pytest.mark.parametrize("row", UPLOADS)
def test_uploads(bench: Bench, row: str) -> None:
    """Of whoever may upload: what is wrong is not kept, and the answer says where to go on."""
    make, offset = UPLOADS[row]
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        hand.say(update)
        yield
        before = standing(bench)
        for message, payload in make(update, content):
            hand.inject(DATA_UP.encode(message), payload, plane="data")
        yield
        acks = [r for r in hand.link.receive(0.0).messages if r.plane == "data"]
        assert bool(acks) == (offset >= 0)
        if acks:
            assert msgpack.unpackb(acks[-1].frames[0])["offset"] == offset
        assert standing(bench) == before
        hand.inject(
            DATA_UP.encode(m.Put(update.nonce, update.blob.digest, max(0, offset))),
            content[max(0, offset) :],
            plane="data",
        )
        yield

    bench.play(script())
    assert bench.server.journal.last_committed() == 1


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "B38 num_examples of 0": ({"num_examples": 0}, "EMPTY"),
    "B38 more examples than the client announced": ({"num_examples": 11}, "EXAMPLES"),
    "B38 10^15 examples": ({"num_examples": 10**15}, "EXAMPLES"),
    "B39 no target": ({"num_tokens": 0}, "EMPTY"),
    "B39 more targets than the examples can have": ({"num_tokens": 10 * 384 + 1}, "TOKENS"),
}


@pytest.mark.parametrize("row", CLAIMS)
def test_claims(bench: Bench, row: str) -> None:
    """The attempt has failed, as with any result that is not valid; nothing of it is in the journal."""
    claims, code = CLAIMS[row]
    hand, other = bench.hand(), bench.hand("w1", boot="b")

    def script() -> Script:
        yield from training(hand)
        other.ready()
        yield
        other.heard()
        before = standing(bench)[1:3]
        yield from finishing(hand, **claims)
        (verdict,) = [reply for reply in hand.said if isinstance(reply, m.Verdict)]
        assert (verdict.code, verdict.text.split(":")[0]) == ("INVALID", code)
        assert standing(bench)[1:3] == before
        (job,) = bench.coordinator.state.roster.of_kind("train")
        assert (job.failures, job.status, job.worker) == (1, Status.ASSIGNED, "w1")
        other.task = task_in(other.heard())
        yield from finishing(other)

    bench.play(script())
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w1"]
