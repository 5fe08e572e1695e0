"""The transport inside one process: queues and a pipe that wakes the reader. For tests and simulations."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Sequence

from fedmq.transport.base import Incoming, Payload, Plane, Received


class _Inbox:
    """A queue that `select` can wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Incoming] = deque()
        self._reader, self._writer = os.pipe()
        self.closed = False

    def put(self, message: Incoming) -> bool:
        with self._lock:
            if self.closed:
                return False
            self._queue.append(message)
            os.write(self._writer, b"\0")
            return True

    def wait(self, timeout_s: float, fds: Sequence[int]) -> Received:
        if self.closed:
            return Received([], [])
        ready, _, _ = select.select([self._reader, *fds], [], [], max(0.0, timeout_s))
        with self._lock:
            messages = list(self._queue)
            self._queue.clear()
            if messages:
                os.read(self._reader, len(messages))
        return Received(messages, [fd for fd in fds if fd in ready])

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self.closed = True
                os.close(self._reader)
                os.close(self._writer)


class MemoryCoordinatorTransport:
    """The listening end; workers are made from it with `MemoryWorkerTransport(listener)`."""

    def __init__(self) -> None:
        self.address, self.data_port = f"memory://{id(self):x}", 1
        self.inbox = _Inbox()
        self.links: dict[bytes, _Inbox] = {}
        self._count = 0

    def accept(self, inbox: _Inbox) -> bytes:
        """A new link's handle."""
        self._count += 1
        peer = b"%d" % self._count
        self.links[peer] = inbox
        return peer

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        inbox = self.links.get(peer)
        frames = (header,) if plane == "control" else (header, bytes(payload))
        return inbox is not None and inbox.put(Incoming(plane, b"", frames))

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        return self.inbox.wait(timeout_s, fds)

    def close(self, linger_s: float = 0.0) -> None:
        # The workers' queues are shared memory: all that was sent has arrived, so there is nothing to linger for.
        self.inbox.close()
        self.links = {}


class MemoryWorkerTransport:
    """The dialling end."""

    def __init__(self, listener: MemoryCoordinatorTransport) -> None:
        self._listener = listener
        self._inbox = _Inbox()
        self._peers: dict[Plane, bytes] = {"control": listener.accept(self._inbox)}

    def dial_data(self, port: int) -> None:
        if "data" not in self._peers:
            self._peers["data"] = self._listener.accept(self._inbox)

    def send(self, plane: Plane, header: bytes, payload: Payload = b"") -> bool:
        peer = self._peers.get(plane)
        if peer is None or peer not in self._listener.links:
            return False
        frames = (header,) if plane == "control" else (header, bytes(payload))
        return self._listener.inbox.put(Incoming(plane, peer, frames))

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        return self._inbox.wait(timeout_s, fds)

    def rebuild(self) -> None:
        for plane, peer in list(self._peers.items()):
            self._listener.links.pop(peer, None)
            self._peers[plane] = self._listener.accept(self._inbox)

    def close(self, linger_s: float = 0.0) -> None:
        for peer in self._peers.values():
            self._listener.links.pop(peer, None)
        self._inbox.close()
