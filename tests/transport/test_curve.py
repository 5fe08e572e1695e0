"""CURVE between real sockets: who comes in, who does not, and what a worker is told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from fedmq.errors import ConfigError, KeyRefused, ServerKeyMismatch
from fedmq.transport.allowed import allow, revoke
from fedmq.transport.base import Incoming, Notice, Received
from fedmq.transport.keys import KeyPair, new_pair
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport

PATIENCE_S = 20.0


class Door:
    """A listening coordinator that lets `north` in, and what has come to it."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.folder = folder / "keys", folder
        self.pair = new_pair("coordinator", self.keys)
        self.north = self.allowed("north")
        self.listener = ZmqCoordinatorTransport("tcp://127.0.0.1:0", self.keys)
        self.messages: list[Incoming] = []
        self.notices: list[Notice] = []

    def allowed(self, name: str) -> KeyPair:
        pair = new_pair(name, self.folder / name)
        allow(pair.public, self.keys)
        return pair

    def turn(self) -> None:
        received = self.listener.receive(0.01)
        self.messages += received.messages
        self.notices += received.notices

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, (self.messages, self.notices)
            self.turn()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.listener.close()


def knock(door: Door, worker: ZmqWorkerTransport, text: bytes = b"hello") -> None:
    """Send, as soon as there is a link."""

    def sent() -> bool:
        worker.receive(0.0)
        return worker.send("control", text)

    door.until(sent)


def test_a_message_carries_the_name_of_its_key(door: Door) -> None:
    south = door.allowed("south")
    ends = [ZmqWorkerTransport(door.listener.address, (pair, door.pair.public)) for pair in (door.north, south)]
    try:
        for end in ends:
            knock(door, end)
        door.until(lambda: len(door.messages) == 2)
        assert {message.owner for message in door.messages} == {"north", "south"}
    finally:
        for end in ends:
            end.close()


def test_a_revoked_key_is_dumb_on_a_live_link_and_cannot_come_back(door: Door) -> None:
    with_key = (door.north, door.pair.public)
    worker = ZmqWorkerTransport(door.listener.address, with_key)
    try:
        knock(door, worker)
        door.until(lambda: door.messages)
        (peer,) = {message.peer for message in door.messages}
        revoke("north", door.keys)
        door.until(lambda: door.notices)
        assert door.notices == [Notice("revoked", "north", "the key of north was revoked")]
        # The link is there and carries, downwards; that nothing comes up is not for want of a link.
        assert door.listener.send("control", peer, b"bye")
        assert [m.frames for m in worker.receive(PATIENCE_S).messages] == [(b"bye",)]
        for _ in range(3):
            assert worker.send("control", b"still here")
        south = ZmqWorkerTransport(door.listener.address, (door.allowed("south"), door.pair.public))
        knock(door, south, b"after all of that")
        door.until(lambda: door.messages[-1].owner == "south")
        south.close()
        assert [m.frames for m in door.messages] == [(b"hello",), (b"after all of that",)]
        worker.rebuild()
        with pytest.raises(KeyRefused, match="does not allow this worker's key"):
            knock(door, worker)
    finally:
        worker.close()


def test_what_a_key_sent_before_it_was_revoked_is_not_read_after(door: Door) -> None:
    worker = ZmqWorkerTransport(door.listener.address, (door.north, door.pair.public))
    try:
        knock(door, worker)
        door.until(lambda: door.messages)
        assert worker.send("control", b"one") and worker.send("control", b"two")
        revoke("north", door.keys)
        door.listener._next_watch_at = 0.0  # as after half a second of other work
        received = door.listener.receive(PATIENCE_S)
        assert [notice.kind for notice in received.notices] == ["revoked"] and received.messages == []
        assert door.listener.receive(0.2) == Received([], [])
    finally:
        worker.close()


def forged_refusal(server: socket.socket) -> None:
    """ZMTP 3.1, CURVE greeting, and an ERROR command that nobody signed, to whoever connects."""
    while True:
        try:
            link, _ = server.accept()
        except OSError:
            return
        with link:
            link.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31))
            heard = b""
            while len(heard) < 64 + 200 and (piece := link.recv(4096)):  # its greeting and its HELLO
                heard += piece
            link.sendall(b"\x04\x0a" + b"\x05ERROR" + b"\x03400")
            link.recv(4096)


def test_one_forged_refusal_does_not_end_a_worker_that_was_let_in(door: Door) -> None:
    worker = ZmqWorkerTransport(door.listener.address, (door.north, door.pair.public))
    server = socket.create_server(("127.0.0.1", 0))
    liar = threading.Thread(target=forged_refusal, args=(server,))
    liar.start()
    try:
        knock(door, worker)
        # The same words to one that was never let in are believed, so that they are known to arrive.
        never_in = ZmqWorkerTransport(f"tcp://127.0.0.1:{server.getsockname()[1]}", (door.north, door.pair.public))
        with contextlib.closing(never_in), pytest.raises(KeyRefused):
            never_in.receive(PATIENCE_S)
        right, worker._ports = worker._ports, {"control": server.getsockname()[1]}
        worker.rebuild()
        worker._ports = right
        deadline = time.monotonic() + PATIENCE_S
        while not worker._ticket._refused and time.monotonic() < deadline:
            worker.receive(0.01)
        assert worker._ticket._refused == 1
        knock(door, worker, b"again")
        door.until(lambda: door.messages[-1].frames == (b"again",))
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        liar.join(PATIENCE_S)
        worker.close()


def test_a_key_that_is_allowed_later_comes_in_with_a_new_socket(door: Door) -> None:
    late = new_pair("late", door.folder / "late")
    for attempt in range(2):
        worker = ZmqWorkerTransport(door.listener.address, (late, door.pair.public))
        try:
            if attempt == 0:
                with pytest.raises(KeyRefused, match=r"fedmq keys allow late\.pub"):
                    knock(door, worker)
                assert {notice.kind for notice in door.notices} == {"stranger"}
                allow(late.public, door.keys)
            else:
                knock(door, worker)
                door.until(lambda: door.messages)
        finally:
            worker.close()
    assert [message.owner for message in door.messages] == ["late"]


def test_a_coordinator_with_another_key_is_not_talked_to(door: Door, tmp_path: Path) -> None:
    other = new_pair("other", tmp_path / "other")
    worker = ZmqWorkerTransport(door.listener.address, (door.north, other.public))
    try:
        with pytest.raises(ServerKeyMismatch, match="other"):
            knock(door, worker)
        assert door.messages == []
    finally:
        worker.close()


def test_a_worker_without_keys_is_told_that_they_are_wanted(door: Door) -> None:
    worker = ZmqWorkerTransport(door.listener.address)
    try:
        with pytest.raises(KeyRefused, match="wants keys: --key"):
            knock(door, worker)
        assert door.messages == []
    finally:
        worker.close()


def test_a_worker_with_keys_does_not_talk_to_a_coordinator_without(door: Door) -> None:
    plain = ZmqCoordinatorTransport("tcp://127.0.0.1:0")
    worker = ZmqWorkerTransport(plain.address, (door.north, door.pair.public))
    try:
        with pytest.raises(ServerKeyMismatch, match="no coordinator with keys"):
            worker.receive(PATIENCE_S)
        assert plain.receive(0.0).messages == []
    finally:
        worker.close()
        plain.close()


def raw(mechanism: str, door: Door) -> zmq.Socket[bytes]:
    """A peer that is no worker of ours."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    if mechanism == "plain":
        socket.set(zmq.PLAIN_USERNAME, b"north")
        socket.set(zmq.PLAIN_PASSWORD, b"guess")
    elif mechanism == "curve":
        public, secret = zmq.curve_keypair()
        socket.set(zmq.CURVE_PUBLICKEY, public)
        socket.set(zmq.CURVE_SECRETKEY, secret)
        socket.set(zmq.CURVE_SERVERKEY, door.pair.public.z85.encode())
    socket.connect(door.listener.address)
    return socket


@pytest.mark.parametrize("mechanism", ["null", "plain", "curve"])
def test_strangers_get_no_message_in_and_cost_the_others_nothing(mechanism: str, door: Door) -> None:
    stranger = raw(mechanism, door)
    worker = ZmqWorkerTransport(door.listener.address, (door.north, door.pair.public))
    try:
        for _ in range(20):
            with contextlib.suppress(zmq.Again):  # it has no link any more
                stranger.send_multipart([b"let me in"], zmq.DONTWAIT)
            door.turn()
        knock(door, worker)
        door.until(lambda: door.messages)
        assert [(m.owner, m.frames) for m in door.messages] == [("north", (b"hello",))]
        assert {notice.kind for notice in door.notices} == ({"stranger"} if mechanism == "curve" else set())
    finally:
        stranger.close()
        worker.close()


def test_where_nobody_answers_for_the_list_nobody_comes_in(door: Door) -> None:
    (asked,) = door.listener._told
    door.listener._told.clear()
    worker = ZmqWorkerTransport(door.listener.address, (door.north, door.pair.public))
    try:
        for _ in range(100):
            assert not worker.send("control", b"hello")
            worker.receive(0.005)
            door.turn()
        assert asked.poll(0), "it was asked"
    finally:
        door.listener._told[asked] = lambda: None
        worker.close()


def test_a_damaged_list_is_told_and_changes_nothing(door: Door) -> None:
    worker = ZmqWorkerTransport(door.listener.address, (door.north, door.pair.public))
    try:
        (door.keys / "allowed.json").write_text("{")
        door.until(lambda: door.notices)
        assert [notice.kind for notice in door.notices] == ["list"]
        knock(door, worker)
        door.until(lambda: door.messages)
    finally:
        worker.close()


def test_without_keys_only_loopback(tmp_path: Path) -> None:
    for refuses in (ZmqCoordinatorTransport, ZmqWorkerTransport):
        with pytest.raises(ConfigError, match="fedmq keys new"):
            refuses("tcp://0.0.0.0:0")
    keys = tmp_path / "keys"
    new_pair("coordinator", keys)
    ZmqCoordinatorTransport("tcp://*:0", keys).close()
