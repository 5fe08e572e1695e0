"""Length-prefixed headers over a pair of pipes between two processes of one worker."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any

from fedmq.protocol.frames import MAX_HEADER_NBYTES, Codec


class PipeClosed(Exception):
    """The process at the other end is gone."""


class Pipe:
    """One end: reads from one descriptor, writes to the other.

    Args:
      read_fd, write_fd: open descriptors, blocking; owned from now on.
      receives, sends: the message types of each direction.
    """

    def __init__(self, read_fd: int, write_fd: int, receives: Iterable[type], sends: Iterable[type]) -> None:
        self.read_fd, self._write_fd = read_fd, write_fd
        self._in, self._out = Codec(receives), Codec(sends)
        self._buffer = b""

    def send(self, message: Any) -> None:
        """Write one message. PipeClosed when nobody reads."""
        header = self._out.encode(message)
        data = struct.pack("<I", len(header)) + header
        try:
            while data:
                data = data[os.write(self._write_fd, data) :]
        except BrokenPipeError:
            raise PipeClosed from None

    def receive(self) -> list[Any]:
        """Read once, blocking if nothing is there, and return the messages that are complete. PipeClosed at the end."""
        data = os.read(self.read_fd, MAX_HEADER_NBYTES)
        if not data:
            raise PipeClosed
        self._buffer += data
        messages = []
        while len(self._buffer) >= 4:
            (nbytes,) = struct.unpack("<I", self._buffer[:4])
            if len(self._buffer) < 4 + nbytes:
                break
            messages.append(self._in.decode(self._buffer[4 : 4 + nbytes]))
            self._buffer = self._buffer[4 + nbytes :]
        return messages

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.read_fd)
        os.close(self._write_fd)
