"""What whoever has no key can cost a coordinator that wants one: neither memory nor descriptors, and for how long."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from curve_door import PLANES, Door, knock
from curve_peer import CurvePeer, sodium

from fedmq.transport.base import Plane

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
#: of a command of the handshake that says that it is of 200 MB
LARGE = b"\x06" + struct.pack(">Q", 200_000_000) + b"\x05HELLO\x01\x00"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.listener.close()


def pour(link: socket.socket, sent: list[int]) -> None:
    """Send 200 MB, or as much as is taken."""
    with contextlib.suppress(OSError):
        while sum(sent) < 200_000_000:
            sent.append(link.send(bytes(1 << 16)))


@pytest.mark.parametrize("plane", PLANES)
def test_a_handshake_that_is_too_large_is_cut_before_it_is_read(plane: Plane, door: Door) -> None:
    sent: list[int] = []
    with socket.create_connection(("127.0.0.1", door.port(plane))) as link:
        link.sendall(GREETING + LARGE)
        pouring = threading.Thread(target=pour, args=(link, sent))
        pouring.start()
        door.until(lambda: not pouring.is_alive())
    assert sum(sent) < 32 << 20, "no more than what lies in the buffers of the system"
    with door.worker(door.north) as worker:
        knock(door, worker, plane=plane)
        door.until(lambda: door.messages)
    assert door.heard == [("north", plane, b"hello")]


def test_links_that_do_not_get_through_the_handshake_are_cut_long_before_libzmq_would(door: Door) -> None:
    """Silent ones, and one in each state that a handshake may stop in. libzmq's own limit is longer than we wait."""
    said = [b""] * 15 + [GREETING[:1], GREETING[:20], GREETING, GREETING + LARGE[:1], GREETING + b"\x04\xc8\x05HELLO"]
    with contextlib.ExitStack() as stack:
        waiting: set[socket.socket] = set()
        for plane in PLANES:
            for words in said:
                link = stack.enter_context(socket.create_connection(("127.0.0.1", door.port(plane))))
                link.sendall(words)
                waiting.add(link)

        def cut() -> bool:
            for link in select.select(list(waiting), [], [], 0)[0]:
                with contextlib.suppress(ConnectionResetError):
                    if link.recv(4096):
                        continue  # its greeting
                waiting.remove(link)
            return not waiting

        with door.worker(door.north) as worker:
            knock(door, worker)
            door.until(lambda: door.messages)
            assert waiting, "they are there while others come in"
            door.until(cut)
            assert worker.send("control", b"still here"), "a link that got through is not cut"
            door.until(lambda: len(door.messages) == 2)


needs_sodium = pytest.mark.skipif(sodium() is None, reason="libzmq was built without libsodium, which a peer needs")


@contextlib.contextmanager
def let_in(door: Door) -> Iterator[tuple[ThreadPoolExecutor, list[CurvePeer]]]:
    """Peers with the key of north, one on each plane, and threads in which to wait for what they hear."""
    with ThreadPoolExecutor(len(PLANES)) as pool, contextlib.ExitStack() as stack:
        joining = [pool.submit(CurvePeer, door.port(plane), door.north, door.pair.public) for plane in PLANES]
        door.until(lambda: all(each.done() for each in joining))
        yield pool, [stack.enter_context(contextlib.closing(each.result())) for each in joining]


@needs_sodium
def test_a_link_that_falls_silent_is_asked_and_told_how_long_it_may_be(door: Door) -> None:
    with let_in(door) as (pool, peers):
        asked = [pool.submit(peer.heartbeat) for peer in peers]
        door.until(lambda: all(each.done() for each in asked))
        assert [each.result() for each in asked] == [20.0, 20.0]


@pytest.mark.nightly
@needs_sodium
def test_a_link_that_does_not_answer_when_it_is_asked_is_cut(door: Door) -> None:
    with let_in(door) as (pool, peers):
        cut = [pool.submit(peer.until_cut) for peer in peers]
        door.until(lambda: all(each.done() for each in cut), patience_s=60.0)
        assert all(each.result() >= 3 for each in cut), "asked more than once, as 15 s are three times 5"
