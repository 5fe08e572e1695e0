"""Who gets a message in, and under whose name: the same on the plane of words and on that of adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from curve_door import PATIENCE_S, PLANES, Door, knock
from zmq.utils.monitor import parse_monitor_message

from fedmq.errors import KeyRefused
from fedmq.transport.allowed import revoke
from fedmq.transport.base import Notice, Plane, Received

pytestmark = pytest.mark.parametrize("plane", PLANES)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.listener.close()


def test_a_message_carries_the_name_of_its_key(plane: Plane, door: Door) -> None:
    with door.worker(door.north) as north, door.worker(door.allowed("south")) as south:
        knock(door, north, b"of north", plane)
        knock(door, south, b"of south", plane)
        door.until(lambda: len(door.messages) == 2)
    assert set(door.heard) == {("north", plane, b"of north"), ("south", plane, b"of south")}


def test_a_revoked_key_is_dumb_on_a_live_link_and_cannot_come_back(plane: Plane, door: Door) -> None:
    with door.worker(door.north) as worker:
        knock(door, worker, plane=plane)
        door.until(lambda: door.messages)
        (peer,) = {message.peer for message in door.messages}
        revoke("north", door.keys)
        door.until(lambda: door.notices)
        assert door.notices == [Notice("revoked", "north", "the key of north was revoked")]
        # The link is there and carries, downwards; that nothing comes up is not for want of a link.
        assert door.listener.send(plane, peer, b"bye")
        assert [m.frames[0] for m in worker.receive(PATIENCE_S).messages] == [b"bye"]
        for _ in range(3):
            assert worker.send(plane, b"still here")
        with door.worker(door.allowed("south")) as south:
            knock(door, south, b"after all of that", plane)
            door.until(lambda: door.messages[-1].owner == "south")
        assert door.heard == [("north", plane, b"hello"), ("south", plane, b"after all of that")]
        worker.rebuild()
        with pytest.raises(KeyRefused, match="does not allow this worker's key"):
            knock(door, worker, plane=plane)


def test_what_a_key_sent_before_it_was_revoked_is_not_read_after(plane: Plane, door: Door) -> None:
    with door.worker(door.north) as worker:
        knock(door, worker, plane=plane)
        door.until(lambda: door.messages)
        assert worker.send(plane, b"one") and worker.send(plane, b"two")
        revoke("north", door.keys)
        door.listener._next_watch_at = 0.0  # as after half a second of other work
        received = door.listener.receive(PATIENCE_S)
        assert [notice.kind for notice in received.notices] == ["revoked"] and received.messages == []
        assert door.listener.receive(0.2) == Received([], [])


def turned_away(door: Door, stranger: zmq.Socket[bytes], plane: Plane) -> None:
    """It knocks, with messages in its hands, until its link is cut; it is never let in."""
    monitor = stranger.get_monitor_socket()  # before it connects: some are cut once, and do not try again
    door.connect(stranger, plane)
    happened: set[object] = set()

    def cut() -> bool:
        with contextlib.suppress(zmq.Again):  # it has no link any more
            stranger.send_multipart([b"let me in", b"now"], zmq.DONTWAIT)
        while monitor.poll(0):
            happened.add(parse_monitor_message(monitor.recv_multipart())["event"])
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in happened and door.messages == []
        return bool(happened & {zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_AUTH})

    try:
        door.until(cut)
    finally:
        stranger.disable_monitor()
        monitor.close(linger=0)


@pytest.mark.parametrize("who", ["null", "plain", "unknown key", "revoked key"])
def test_strangers_get_no_message_in_and_cost_the_others_nothing(who: str, plane: Plane, door: Door) -> None:
    pair = door.allowed("gone") if who == "revoked key" else None
    if pair is not None:
        revoke("gone", door.keys)
    with_key = who.endswith("key")
    with contextlib.closing(door.raw("curve" if with_key else who, pair)) as stranger:
        turned_away(door, stranger, plane)
        with door.worker(door.north) as worker:
            knock(door, worker, plane=plane)
            door.until(lambda: door.messages)
    assert door.heard == [("north", plane, b"hello")]
    assert {notice.kind for notice in door.notices} == ({"stranger"} if with_key else set())


def test_where_nobody_answers_for_the_list_nobody_comes_in(plane: Plane, door: Door) -> None:
    (asked,) = door.listener._told
    answer = door.listener._told.pop(asked)
    with contextlib.closing(door.raw("curve", door.north)) as north:
        try:
            door.connect(north, plane)
            north.send_multipart([b"hello", b""])
            door.until(lambda: asked.poll(0))
            for _ in range(20):
                door.turn()
            assert door.messages == []
        finally:
            door.listener._told[asked] = answer
        door.until(lambda: door.messages)
        assert door.heard == [("north", plane, b"hello")], "it was for want of an answer"


def test_where_nobody_can_be_asked_for_the_list_nobody_comes_in(plane: Plane, door: Door) -> None:
    """libzmq's own default is to let everybody in then."""
    (asked,) = door.listener._told
    asked.unbind("inproc://zeromq.zap.01")
    with contextlib.closing(door.raw("curve", door.north)) as north:
        turned_away(door, north, plane)
