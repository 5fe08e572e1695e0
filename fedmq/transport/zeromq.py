"""The transport over ZeroMQ: ROUTER at the coordinator, DEALER at the worker, two sockets each.

Routing ids are anonymous and HANDOVER is off: a fixed id can be lost after a reconnect, and with
HANDOVER be taken over by another peer. Options not explained here: docs/protocol.md.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq

from fedmq.transport.addresses import parse_address, require_secure
from fedmq.transport.allowed import AllowList
from fedmq.transport.base import Incoming, Notice, Payload, Plane, Received
from fedmq.transport.curve import Door, Ticket
from fedmq.transport.keys import KeyPair, PublicKey, coordinator_pair
from fedmq.transport.listening import Listening, listen

CHUNK_NBYTES = 1 << 20
#: CURVE adds 33 bytes to a frame.
_MAX_MESSAGE = {"control": 256 * 1024 + 33, "data": CHUNK_NBYTES + 4096 + 33}
_HIGH_WATER = {"control": 256, "data": 16}
#: Chunks of one worker that wait in the coordinator's memory; what it has sent beyond them waits at its end.
_MAX_UNREAD = {"control": 256, "data": 4}
#: One wait returns at most this many messages of a plane: a flood costs no timer, and bounded memory.
_BATCH = {"control": 256, "data": 16}
#: How often the list of workers that may join is looked at.
_WATCH_EVERY_S = 0.5


class _Sockets(ABC):
    """A context, the sockets of both planes, those on which libzmq tells of handshakes, and one poller."""

    def __init__(self, kind: int, host: str) -> None:
        self._kind = kind
        self._ipv6 = host.startswith("[")
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[Plane, zmq.Socket[bytes]] = {}
        self._told: dict[zmq.Socket[bytes], Callable[[], None]] = {}

    def _open(self, plane: Plane) -> zmq.Socket[bytes]:
        socket = self._context.socket(self._kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE[plane])
        socket.set(zmq.SNDHWM, _HIGH_WATER[plane])
        socket.set(zmq.RCVHWM, (_MAX_UNREAD if self._kind == zmq.ROUTER else _HIGH_WATER)[plane])
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        socket.set(zmq.HEARTBEAT_IVL, 5000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 15000)
        socket.set(zmq.HEARTBEAT_TTL, 20000)
        if self._kind == zmq.ROUTER:
            socket.set(zmq.ROUTER_MANDATORY, 1)
        else:
            socket.set(zmq.IMMEDIATE, 1)
            socket.set(zmq.RECONNECT_IVL, 100)
            socket.set(zmq.RECONNECT_IVL_MAX, 1000)
            socket.set(zmq.CONNECT_TIMEOUT, 5000)
        if self._ipv6:
            socket.set(zmq.IPV6, 1)
        self._sockets[plane] = socket
        return socket

    def _send(self, plane: Plane, frames: list[Payload]) -> bool:
        socket = self._sockets.get(plane)
        if socket is None:
            return False
        try:
            socket.send_multipart(frames, zmq.DONTWAIT, copy=plane == "control")
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise
        return True

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        deadline = time.monotonic() + timeout_s
        while True:
            ready = self._poll(deadline - time.monotonic(), fds)
            for socket in [socket for socket in self._told if socket in ready]:
                self._told[socket]()
            # First the list, then the messages: what a revoked key had sent before is not read either.
            notices = self._notices()
            received = Received(self._messages(ready), [fd for fd in fds if fd in ready], notices, self._relinked())
            # A handshake, or a message of nobody, is nothing that anybody waits for.
            if any(received) or time.monotonic() >= deadline:
                return received

    def _poll(self, timeout_s: float, fds: Sequence[int]) -> set[object]:
        poller = zmq.Poller()
        for waited_for in [*self._sockets.values(), *self._told, *fds]:
            poller.register(waited_for, zmq.POLLIN)
        return {key for key, _ in poller.poll(max(0, int(timeout_s * 1000)))}

    def _messages(self, ready: set[object]) -> list[Incoming]:
        messages: list[Incoming] = []
        for plane, socket in self._sockets.items():
            for _ in range(_BATCH[plane] if socket in ready else 0):
                try:
                    incoming = self._read(plane, socket)
                except zmq.Again:
                    break
                if incoming is not None:
                    messages.append(incoming)
        return messages

    @abstractmethod
    def _read(self, plane: Plane, socket: zmq.Socket[bytes]) -> Incoming | None:
        """The next message; None for one that counts as nobody's. Raises zmq.Again when there is none."""

    def _notices(self) -> tuple[Notice, ...]:
        return ()

    def _relinked(self) -> bool:
        return False

    def close(self, linger_s: float = 0.0) -> None:
        for socket in self._told:
            socket.close(linger=0)
        for socket in self._sockets.values():
            socket.close(linger=int(linger_s * 1000))
        self._sockets, self._told = {}, {}
        self._context.term()


def _contents(plane: Plane, frames: Sequence[zmq.Frame]) -> tuple[Payload, ...]:
    """A chunk is hashed and written from where libzmq has it, without a copy."""
    if plane == "control" or not frames:
        return tuple(frame.bytes for frame in frames)
    *headers, payload = frames
    return (*(frame.bytes for frame in headers), payload.buffer)


class ZmqCoordinatorTransport(_Sockets):
    """Listens on tcp://HOST:PORT; the data plane takes PORT + 1 if it is free, else another.

    Args:
      bind: the address.
      keys: folder with the coordinator's pair and the list of workers that may join; None on loopback only.
      listening: sockets that listen there already, taken over; None opens them.
    """

    def __init__(self, bind: str, keys: Path | None = None, listening: Listening | None = None) -> None:
        require_secure(bind, keys is not None)
        self._door = None if keys is None else Door(coordinator_pair(keys), AllowList(keys))
        self._news: list[Notice] = []
        self._next_watch_at = 0.0
        listening = listening or listen(bind)
        self.address, self.data_port = listening.address, listening.data_port
        super().__init__(zmq.ROUTER, parse_address(bind)[0])
        if self._door is not None:
            asked = self._door.open(self._context)
            self._told[asked] = lambda: self._answer(asked)
        planes: dict[Plane, int] = {"control": listening.control.detach(), "data": listening.data.detach()}
        for plane, accepts in planes.items():
            socket = self._open(plane)
            if self._door is not None:
                self._door.guard(socket)
            socket.set(zmq.USE_FD, accepts)
            socket.bind(bind)

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        return self._send(plane, [peer, header] if plane == "control" else [peer, header, payload])

    def _read(self, plane: Plane, socket: zmq.Socket[bytes]) -> Incoming | None:
        first, *rest = socket.recv_multipart(zmq.DONTWAIT, copy=False)
        # Only a frame that is not copied tells whose it is, as libzmq had it from `answer`.
        owner = "" if self._door is None else self._door.owner(rest[0]["User-Id"]) if rest else None
        return None if owner is None else Incoming(plane, first.bytes, _contents(plane, rest), owner)

    def _answer(self, asked: zmq.Socket[bytes]) -> None:
        assert self._door is not None
        self._news += self._door.answer(asked)

    def _notices(self) -> tuple[Notice, ...]:
        now = time.monotonic()
        if self._door is not None and now >= self._next_watch_at:
            self._next_watch_at = now + _WATCH_EVERY_S
            self._news += self._door.watch()
        news, self._news = self._news, []
        return tuple(news)


class ZmqWorkerTransport(_Sockets):
    """Dials tcp://HOST:PORT; connecting goes on in the background for as long as it takes.

    Args:
      connect: the address.
      keys: the worker's pair and the coordinator's public key; None on loopback only.
    """

    def __init__(self, connect: str, keys: tuple[KeyPair, PublicKey] | None = None) -> None:
        require_secure(connect, keys is not None)
        self._host, port = parse_address(connect)
        self._ticket = Ticket(keys, connect)
        super().__init__(zmq.DEALER, self._host)
        self._ports: dict[Plane, int] = {"control": port}
        self._monitors: dict[Plane, zmq.Socket[bytes]] = {}
        self._news: tuple[Notice, ...] = ()
        self._data_linked = False
        self._dial("control")

    def _dial(self, plane: Plane) -> None:
        socket = self._open(plane)
        monitor = self._monitors[plane] = self._ticket.show(socket)
        self._told[monitor] = lambda: self._hear(plane, monitor)
        socket.connect(f"tcp://{self._host}:{self._ports[plane]}")

    def _hear(self, plane: Plane, monitor: zmq.Socket[bytes]) -> None:
        heard = self._ticket.hear(monitor)
        if heard == "broken":
            self._hang_up(plane)
            self._dial(plane)
        elif heard == "linked" and plane == "data":
            self._data_linked = True
        elif heard == "linked":
            # libzmq puts the new link into use when the socket is next asked about it.
            self._sockets[plane].get(zmq.EVENTS)
            self._news = (Notice("linked"),)

    def _notices(self) -> tuple[Notice, ...]:
        news, self._news = self._news, ()
        return news

    def _relinked(self) -> bool:
        linked, self._data_linked = self._data_linked, False
        return linked

    def _hang_up(self, plane: Plane) -> None:
        socket = self._sockets.pop(plane)
        monitor = self._monitors.pop(plane)
        del self._told[monitor]
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close()

    def _read(self, plane: Plane, socket: zmq.Socket[bytes]) -> Incoming | None:
        return Incoming(plane, b"", _contents(plane, socket.recv_multipart(zmq.DONTWAIT, copy=False)))

    def dial_data(self, port: int) -> None:
        if self._ports.get("data") == port and "data" in self._sockets:
            return
        if "data" in self._sockets:
            self._hang_up("data")
        self._ports["data"] = port
        self._dial("data")

    def send(self, plane: Plane, header: bytes, payload: Payload = b"") -> bool:
        return self._send(plane, [header] if plane == "control" else [header, payload])

    def rebuild(self) -> None:
        planes = list(self._sockets)
        for plane in planes:
            self._hang_up(plane)
        for plane in planes:
            self._dial(plane)
