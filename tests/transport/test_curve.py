"""CURVE between real sockets: who comes in, who does not, and what a worker is told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from curve_door import PATIENCE_S, Door, knock

from fedmq.errors import ConfigError, KeyRefused, ServerKeyMismatch
from fedmq.transport.allowed import allow
from fedmq.transport.keys import new_pair
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.listener.close()


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
