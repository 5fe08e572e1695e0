"""The gateway: the process that has the coordinator's sockets, its secret key, and a memory limit of its own.

It lives as long as the channel to the coordinator does, and holds nothing that the run could miss.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from fedmq.errors import FedmqError
from fedmq.transport.allowed import allowed
from fedmq.transport.base import Incoming, Plane
from fedmq.transport.channel import Channel, ChannelClosed
from fedmq.transport.listening import Listening
from fedmq.transport.zeromq import ZmqCoordinatorTransport

_BATCH = 16
#: Messages that are kept because the same may be sent to the next worker too.
_RECENT = 32
#: Of a message with too many frames, so many are told, and of none what is in it: the coordinator refuses it anyway.
_FRAMES: dict[Plane, int] = {"control": 1, "data": 2}
_PLANES: dict[bytes, Plane] = {b"control": "control", b"data": "data"}


class Gateway:
    """Carries messages between the network and the coordinator until that is gone, or wants no more.

    Args:
      transport: bound already.
      channel: to the coordinator.
    """

    def __init__(self, transport: ZmqCoordinatorTransport, channel: Channel) -> None:
        self._transport, self._channel = transport, channel
        self._recent: dict[bytes, bytes] = {}
        self._linger_s: float | None = None

    def run(self, names: list[str]) -> float:
        """Tell who may join, and serve; returns the seconds that what is queued has to leave."""
        self._channel.put("control", b"ready", json.dumps(names).encode())
        while self._linger_s is None:
            self._deliver()
            received = self._transport.receive(0.1, [self._channel.fd])
            for notice in received.notices:
                self._channel.put(
                    "control", b"notice", notice.kind.encode(), notice.worker.encode(), notice.text.encode()
                )
            for incoming in received.messages:
                self._report(incoming)
            if received.readable:
                self._obey()
        return self._linger_s

    def _report(self, incoming: Incoming) -> None:
        plane, peer, frames, owner = incoming
        if len(frames) != _FRAMES[plane]:
            frames = (b"",) * min(len(frames), _FRAMES[plane] + 1)
        self._channel.put("control", b"message", plane.encode(), peer, owner.encode(), *frames)

    def _deliver(self) -> None:
        """Nothing more is read from the network before the coordinator has all of this; it is listened to meanwhile."""
        self._channel.flush()
        while self._channel.unsent and self._linger_s is None:
            if self._channel.wait():
                self._obey()
            self._channel.flush()

    def _obey(self) -> None:
        while commands := self._channel.read(_BATCH):
            for kind, *parts in commands:
                if kind == b"close":
                    self._linger_s = float(parts[0])
                    return
                if kind == b"ask":
                    self._channel.put("control", b"here")
                    continue
                plane, peer, header, payload = parts
                if not self._transport.send(_PLANES[plane], peer, header, self._shared(header, payload)):
                    self._channel.put("control", b"lost", plane, peer)

    def _shared(self, header: bytes, payload: bytes) -> bytes:
        """All workers fetch the same adapter at about the same time: its chunks are in memory once."""
        if payload and self._recent.get(header) == payload:
            return self._recent[header]
        if payload:
            self._recent[header] = payload
            if len(self._recent) > _RECENT:
                del self._recent[next(iter(self._recent))]
        return payload


def main() -> None:
    """Take over the listening sockets and serve; exit codes are those of the errors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind")
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--memory-nbytes", type=int)
    for name in ("channel", "control", "data"):
        parser.add_argument(f"--{name}-fd", type=int)
    arguments = parser.parse_args()
    # Whoever stops the run tells the coordinator, which needs us for its last words; we end when it closes the channel.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # There is a secret key in this memory, and it is meant to be cut off.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    listening = Listening(socket.socket(fileno=arguments.control_fd), socket.socket(fileno=arguments.data_fd))
    try:
        transport = ZmqCoordinatorTransport(arguments.bind, arguments.keys, listening)
        # After the transport has read the list: a change in between is told by both, never by none.
        names = [] if arguments.keys is None else [key.name for key in allowed(arguments.keys)]
    except FedmqError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    limit_memory(arguments.memory_nbytes)
    try:
        linger_s = Gateway(transport, Channel(socket.socket(fileno=arguments.channel_fd))).run(names)
    except ChannelClosed:
        linger_s = 0.0
    transport.close(linger_s)


def limit_memory(nbytes: int) -> None:
    """Let this process map so many bytes more than it has by now, and not one page beyond."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
