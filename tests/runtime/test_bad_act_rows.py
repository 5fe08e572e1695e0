"""Rows B22 to B39 of docs/bad-input.md: messages that lie, or come at a wrong time or from the wrong peer.

As the rows of test_bad_input_rows.py: each while another worker trains, which ends the run as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from conducting import (
    DATA_UP,
    Bench,
    Hand,
    Script,
    besides,
    finishing,
    first_adapter,
    notes_of,
    standing,
    task_in,
    training,
    update_of,
    verdicts,
)
from serving import adapter, offer

from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.jobs import Status
from fedmq.runtime.intake import MAX_BLOB_NBYTES
from fedmq.runtime.tasks import task_nonce

pytestmark = pytest.mark.usefixtures("bounded_memory")
TASK = "train-1-client_1-0"


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
