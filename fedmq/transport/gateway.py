"""The transport whose sockets live in a process of their own, the gateway, with a memory limit.

What a peer does to libzmq or to memory, it does to the gateway. When that dies, or hangs and is killed, another takes
its place on the same ports: workers connect to it by themselves, and are asked to say hello again.
"""

from __future__ import annotations

import json
import math
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedmq.errors import ConfigError, RunError
from fedmq.transport.addresses import require_secure
from fedmq.transport.base import Incoming, Notice, NoticeKind, Payload, Plane, Received
from fedmq.transport.channel import ChannelClosed
from fedmq.transport.gateway_child import ASK_S, START_S, GatewayChild
from fedmq.transport.listening import listen

#: What a gateway may map beyond what it has at its start: 4 chunks each of a hundred workers, and room.
MEMORY_NBYTES = 512 << 20
#: One that dies sooner after its start died at once; so many of them in a row end the run.
_AT_ONCE_S = 5.0
_MAX_AT_ONCE = 5
#: From one start to the next, at least.
_RESTART_S = 1.0
#: One wait returns at most so many messages.
_BATCH = 32
#: While more of the data plane waits for the gateway, nothing is read that would be answered with yet more.
_ENOUGH_NBYTES = 32 << 20
#: Of either plane; then `send` refuses.
_MAX_QUEUED_NBYTES = 128 << 20
#: Links that are known at a time. Beyond it the oldest is forgotten, and its worker is asked to say hello again.
_MAX_LINKS = 65536
_PLANES: dict[bytes, Plane] = {b"control": "control", b"data": "data"}
_KINDS: dict[bytes, NoticeKind] = {b"revoked": "revoked", b"stranger": "stranger", b"list": "list"}


class GatewayCoordinatorTransport:
    """Listens on tcp://HOST:PORT; the data plane takes PORT + 1 if it is free, else another.

    Args:
      bind: the address.
      keys: folder with the coordinator's pair and the list of workers that may join, read by the gateway alone; None on
        loopback only.
      memory_nbytes: that a gateway may map beyond what it has at its start.

    Raises:
      ConfigError: the address or the keys cannot be used.
      RunError: the port is in use, or no gateway can be started.
    """

    def __init__(self, bind: str, keys: Path | None = None, memory_nbytes: int = MEMORY_NBYTES) -> None:
        require_secure(bind, keys is not None)
        self._command = [sys.executable, "-m", "fedmq.transport.gateway_process", f"--bind={bind}"]
        self._command += [f"--memory-nbytes={memory_nbytes}", *([] if keys is None else [f"--keys={keys.resolve()}"])]
        # By handle, and by what the gateway calls a link. Once a link has lost a message it is another link.
        self._links: dict[bytes, tuple[bytes, bytes]] = {}
        self._handles: dict[tuple[bytes, bytes], bytes] = {}
        self._count = self._at_once = 0
        self._owners: set[str] = set()
        self._messages: list[Incoming] = []
        self._news: list[Notice] = []
        self._closed, self._start_at = False, 0.0
        self._listening = listen(bind)
        self.address, self.data_port = self._listening.address, self._listening.data_port
        self._child: GatewayChild | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        child = self._child = GatewayChild(self._command, self._listening)
        if not child.channel.wait(START_S):
            raise RunError(f"the gateway has not started within {START_S:.0f} s")
        try:
            self._exchange()
        except ChannelClosed:
            self._child = None
            code, how, said = child.end()
            if code == ConfigError.exit_code:
                raise ConfigError(said) from None
            raise RunError(f"the gateway could not be started: it {how}: {said}") from None

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        link = self._links.get(peer)
        if self._child is None or link is None or _PLANES[link[0]] != plane:
            return False
        channel = self._child.channel
        if channel.queued[plane] > _MAX_QUEUED_NBYTES:
            return False
        channel.put(plane, b"send", *link, header, payload)
        try:
            channel.flush()
        except ChannelClosed:
            return False
        return True

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        """Wait until something comes, a descriptor is readable, or the time is over.

        Raises:
          RunError: one gateway after the other died at once.
        """
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            readable = self._wait(deadline - time.monotonic(), fds)
            try:
                self._exchange()
            except ChannelClosed:
                self._bury()
            received = Received(self._messages, readable, tuple(self._news))
            self._messages, self._news = [], []
            if any(received) or time.monotonic() >= deadline:
                return received
        return Received([], [])

    def _wait(self, timeout_s: float, fds: Sequence[int]) -> list[int]:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        if self._child is None and (pause_s := self._start_at - time.monotonic()) > 0:
            timeout_s = min(timeout_s, pause_s)
        elif self._child is None:
            self._child = GatewayChild(self._command, self._listening)
        if self._child is not None:
            channel = self._child.channel
            reads = self._wants_more()
            poller.register(channel.fd, (select.POLLIN * reads) | (select.POLLOUT * channel.unsent))
            if reads and channel.has_message:
                timeout_s = 0.0
            timeout_s = min(timeout_s, ASK_S)
        timeout_s = max(0.0, timeout_s)
        ready = {fd for fd, _ in poller.poll(math.ceil(1000 * timeout_s))}
        if self._child is not None and not ready:
            self._child.waited(timeout_s)
        return [fd for fd in fds if fd in ready]

    def _wants_more(self) -> bool:
        return self._child is not None and self._child.channel.queued["data"] <= _ENOUGH_NBYTES

    def _exchange(self) -> None:
        if self._child is not None:
            self._child.channel.flush()
        if self._child is not None and self._wants_more():
            for parts in self._child.channel.read(_BATCH):
                self._take(parts)
        if self._child is not None:
            self._child.check()

    def _take(self, parts: list[bytes]) -> None:
        match parts:
            case [b"message", plane, peer, owner, *frames] if plane in _PLANES:
                name = owner.decode("ascii", "replace")
                self._owners.add(name)
                self._messages.append(Incoming(_PLANES[plane], self._handle(plane, peer), tuple(frames), name))
            case [b"here"]:
                pass
            case [b"lost", plane, peer]:
                self._forget((plane, peer))
            case [b"notice", kind, worker, text] if kind in _KINDS:
                self._notice(Notice(_KINDS[kind], worker.decode("ascii", "replace"), text.decode("utf-8", "replace")))
            case [b"ready", names]:
                # Whose key was revoked while no gateway was there to see it.
                for name in sorted(self._owners.difference([""], json.loads(names))):
                    self._notice(Notice("revoked", name, f"the key of {name} was revoked"))
            case _:
                raise ChannelClosed("what came is no message")

    def _notice(self, notice: Notice) -> None:
        self._news.append(notice)
        if notice.kind == "revoked":
            # What it had sent before is not read either.
            self._owners.discard(notice.worker)
            self._messages = [message for message in self._messages if message.owner != notice.worker]

    def _handle(self, plane: bytes, peer: bytes) -> bytes:
        handle = self._handles.get((plane, peer))
        if handle is None:
            self._count += 1
            handle = self._handles[plane, peer] = b"%d" % self._count
            self._links[handle] = (plane, peer)
            if len(self._links) > _MAX_LINKS:
                self._forget(self._links[next(iter(self._links))])
        return handle

    def _forget(self, link: tuple[bytes, bytes]) -> None:
        self._links.pop(self._handles.pop(link, b""), None)

    def _bury(self) -> None:
        """The gateway is gone, and with it every link."""
        child, self._child = self._child, None
        assert child is not None
        now = time.monotonic()
        _, how, said = child.end()
        how += f" ({said})" if said else ""
        self._links, self._handles = {}, {}
        self._at_once = self._at_once + 1 if now - child.started_at < _AT_ONCE_S else 0
        if self._at_once == _MAX_AT_ONCE:
            self.close()
            raise RunError(
                f"the gateway died {_MAX_AT_ONCE} times in a row within {_AT_ONCE_S:.0f} s; the last one {how}"
            )
        self._start_at = child.started_at + _RESTART_S
        self._news.append(Notice("gateway", "", f"the gateway {how}: another takes its place, workers come back to it"))

    def close(self, linger_s: float = 0.0) -> None:
        if self._closed:
            return
        self._closed = True
        child, self._child = self._child, None
        self._links = {}
        self._listening.close()
        if child is not None:
            child.part(linger_s)
