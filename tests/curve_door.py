"""A coordinator's door with keys, and who knocks at it, on either plane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import zmq

from fedmq.transport.allowed import allow
from fedmq.transport.base import CoordinatorTransport, Incoming, Notice, Plane
from fedmq.transport.keys import KeyPair, new_pair
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport

PATIENCE_S = 20.0
PLANES: tuple[Plane, ...] = ("control", "data")


class Listening:
    """A coordinator's end that lets `north` in, and what has come to it."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.folder = folder / "keys", folder
        self.pair = new_pair("coordinator", self.keys)
        self.north = self.allowed("north")
        self.listener = self.listen()
        self.messages: list[Incoming] = []
        self.notices: list[Notice] = []

    def listen(self) -> CoordinatorTransport:
        return ZmqCoordinatorTransport("tcp://127.0.0.1:0", self.keys)

    def allowed(self, name: str) -> KeyPair:
        pair = new_pair(name, self.folder / name)
        allow(pair.public, self.keys)
        return pair

    def turn(self) -> None:
        received = self.listener.receive(0.01)
        self.messages += received.messages
        self.notices += received.notices

    def until(self, done: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline, (self.messages, self.notices)
            self.turn()


class Door(Listening):
    """The same with sockets of its own, and who knocks."""

    def port(self, plane: Plane) -> int:
        return int(self.listener.address.rpartition(":")[2]) if plane == "control" else self.listener.data_port

    @contextmanager
    def worker(self, pair: KeyPair) -> Iterator[ZmqWorkerTransport]:
        """One with this key, that has dialled the control plane."""
        with closing(ZmqWorkerTransport(self.listener.address, (pair, self.pair.public))) as worker:
            yield worker

    def connect(self, socket: zmq.Socket[bytes], plane: Plane) -> None:
        socket.connect(f"tcp://127.0.0.1:{self.port(plane)}")

    @property
    def heard(self) -> list[tuple[str, Plane, object]]:
        """Of each message the worker, the plane, and what it says."""
        return [(message.owner, message.plane, message.frames[0]) for message in self.messages]

    def raw(self, mechanism: str, pair: KeyPair | None = None) -> zmq.Socket[bytes]:
        """A peer that is no worker of ours, not connected; for CURVE with this key, or one that nobody knows."""
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        if mechanism == "plain":
            socket.set(zmq.PLAIN_USERNAME, b"north")
            socket.set(zmq.PLAIN_PASSWORD, b"guess")
        elif mechanism == "curve":
            public, secret = (
                zmq.curve_keypair() if pair is None else (pair.public.z85.encode(), pair.secret.z85.encode())
            )
            socket.set(zmq.CURVE_PUBLICKEY, public)
            socket.set(zmq.CURVE_SECRETKEY, secret)
            socket.set(zmq.CURVE_SERVERKEY, self.pair.public.z85.encode())
        return socket


def knock(
    door: Door, worker: ZmqWorkerTransport, text: bytes = b"hello", plane: Plane = "control", payload: bytes = b""
) -> None:
    """Send, as soon as there is a link."""
    if plane == "data":
        worker.dial_data(door.listener.data_port)

    def sent() -> bool:
        worker.receive(0.0)
        return worker.send(plane, text, payload)

    door.until(sent)
