"""What a worker says on its control link: words that the link does not take at once wait, in their order.

A link takes so many messages and no more, and a worker may have more to say: it offers the updates of all its clients
at once when it was away. A word that is lost on a link that lives is not asked for again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.transport.base import WorkerTransport


class ControlQueue:
    """Sends control messages of one worker."""

    def __init__(self, transport: WorkerTransport) -> None:
        self._transport, self._codec = transport, Codec(m.TO_COORDINATOR)
        self._waiting: deque[bytes] = deque()

    def send(self, message: Any) -> None:
        """Say it now, or when what waits has been said. Greetings and heartbeats have times of their own."""
        if isinstance(message, m.Hello):
            # After a hello all that still counts is said again.
            self._waiting.clear()
        content = self._codec.encode(message)
        taken = not self._waiting and self._transport.send("control", content)
        if not (taken or isinstance(message, m.Hello | m.Heartbeat)):
            self._waiting.append(content)

    def retry(self) -> None:
        """Say what waits, as far as the link takes it."""
        while self._waiting and self._transport.send("control", self._waiting[0]):
            self._waiting.popleft()
