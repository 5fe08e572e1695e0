"""A stream of messages between two processes of one host: length-prefixed, in order, never blocking."""

from __future__ import annotations

import select
import socket
import struct
from collections import deque

from fedmq.transport.base import Payload, Plane

#: A larger message is none: a chunk, its header and what names its link are less.
_MAX_NBYTES = 2 << 20
_MAX_PARTS = 16
_PIECE_NBYTES = 1 << 18
#: Less where the system allows less.
_SOCKET_NBYTES = 1 << 20


class ChannelClosed(Exception):
    """The process at the other end is gone, or sends what is no message."""


class Channel:
    """One end. A message is some byte strings; what is for the control plane overtakes what is for the data plane.

    Args:
      end: of a socket pair; owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_NBYTES)
        self._socket = end
        self._buffer = bytearray()
        self._leaving: list[memoryview] = []
        self._waiting: dict[Plane, deque[list[memoryview]]] = {"control": deque(), "data": deque()}
        #: bytes of each plane that wait to be written
        self.queued: dict[Plane, int] = {"control": 0, "data": 0}
        #: grows with each sign that the other end lives: something came, or there is room where there was none
        self.signs = 0
        self._full = False

    @property
    def fd(self) -> int:
        """Readable when there is something to read, or the other end is gone."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._leaving or self._waiting["control"] or self._waiting["data"])

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to read, or room for what is unsent; whether there is something to read."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN | (select.POLLOUT if self.unsent else 0))
        ready = poller.poll(None if timeout_s is None else 1000 * timeout_s)
        return any(event & ~select.POLLOUT for _, event in ready)

    def put(self, plane: Plane, *parts: Payload) -> None:
        """Queue a message. The last part is not copied, and must not change."""
        *small, last = (memoryview(part).cast("B") for part in parts)
        lengths = struct.pack(f"<B{len(parts)}I", len(parts), *(part.nbytes for part in (*small, last)))
        message = [memoryview(b"".join([lengths, *small])), last]
        self._waiting[plane].append(message)
        self.queued[plane] += sum(piece.nbytes for piece in message)

    def flush(self) -> None:
        """Write as much as the other end takes.

        Raises:
          ChannelClosed: nobody reads there any more.
        """
        while self._leaving or self._next():
            try:
                sent = self._socket.sendmsg(self._leaving)
            except BlockingIOError:
                self._full = True
                return
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            # That it was written proves nothing: the system takes a megabyte that nobody reads.
            self.signs += self._full
            self._full = False
            while self._leaving and sent >= self._leaving[0].nbytes:
                sent -= self._leaving.pop(0).nbytes
            if self._leaving:
                self._leaving[0] = self._leaving[0][sent:]

    @property
    def has_message(self) -> bool:
        """Whether a message was read from the socket already, and waits here."""
        return self._end() > 0

    def read(self, count: int) -> list[list[bytes]]:
        """The next messages, at most `count` of those that have come.

        Raises:
          ChannelClosed: nobody writes there any more, and all was read.
        """
        messages: list[list[bytes]] = []
        while len(messages) < count:
            if end := self._end():
                messages.append(self._cut(end))
                continue
            try:
                piece = self._socket.recv(_PIECE_NBYTES)
            except BlockingIOError:
                break
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if piece:
                self.signs += 1
                self._buffer += piece
            elif messages:
                break
            else:
                raise ChannelClosed("the other end is closed")
        return messages

    def close(self) -> None:
        """Close for good; what was not written is lost."""
        self._socket.close()

    def _next(self) -> bool:
        plane: Plane = "control" if self._waiting["control"] else "data"
        if not self._waiting[plane]:
            return False
        self._leaving = self._waiting[plane].popleft()
        self.queued[plane] -= sum(piece.nbytes for piece in self._leaving)
        return True

    def _end(self) -> int:
        """Where the first message in the buffer ends; 0 if it is not all there."""
        if not self._buffer:
            return 0
        count = self._buffer[0]
        if not 0 < count <= _MAX_PARTS:
            raise ChannelClosed("what came is no message")
        start = 1 + 4 * count
        if len(self._buffer) < start:
            return 0
        end = start + sum(struct.unpack_from(f"<{count}I", self._buffer, 1))
        if end > _MAX_NBYTES:
            raise ChannelClosed("what came is too large for a message")
        return end if len(self._buffer) >= end else 0

    def _cut(self, end: int) -> list[bytes]:
        count = self._buffer[0]
        start, parts = 1 + 4 * count, []
        with memoryview(self._buffer) as view:
            for length in struct.unpack_from(f"<{count}I", view, 1):
                parts.append(bytes(view[start : start + length]))
                start += length
        del self._buffer[:end]
        return parts
