"""The coordinator's control links: which worker speaks on which, and messages to and from them."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Literal, NoReturn

from fedmq.errors import RemoteProtocolError, VersionMismatch
from fedmq.protocol import messages as m
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.frames import Codec
from fedmq.protocol.limits import Recent
from fedmq.transport.base import CoordinatorTransport, Incoming

#: For a worker that was told that it is over to say goodbye.
_GOODBYE_S = 2.0


class Links:
    """A link is bound to a worker by its hello. The newest hello of a name wins: its older link is dead or a ghost."""

    def __init__(self, transport: CoordinatorTransport) -> None:
        self._transport = transport
        self._in, self._out = Codec(m.TO_COORDINATOR), Codec(m.TO_WORKER)
        self._workers: dict[bytes, str] = {}
        self._peers: dict[str, bytes] = {}
        #: of each name, the process that said hello last; and processes that another of their name has replaced
        self._boots: Recent[str, str] = Recent(str)
        self._replaced: Recent[str, None] = Recent(lambda: None)
        self._doubted: set[bytes] = set()
        #: workers that have said more than hello and goodbye on their present link
        self._talking: set[str] = set()

    def decode(self, incoming: Incoming) -> Any:
        """The message that came in on the control plane.

        Raises:
          RemoteProtocolError: it is none. What it should have said is lost: its worker must say hello again, which
            sets both ends right.
        """
        try:
            if len(incoming.frames) != 1:
                raise RemoteProtocolError("MALFORMED", f"{len(incoming.frames)} frames on the control plane")
            message = self._in.decode(bytes(incoming.frames[0]))
        except RemoteProtocolError:
            self.doubt(incoming.peer)
            raise
        if not isinstance(message, m.Hello | m.Goodbye) and (worker := self._workers.get(incoming.peer)) is not None:
            self._talking.add(worker)
        return message

    def bind(self, incoming: Incoming, hello: m.Hello) -> bool:
        """This worker speaks on this link from now on. Returns whether it is another process than last time.

        Raises:
          VersionMismatch: it does not speak our version.
          RemoteProtocolError: the link or its key is another worker's, or a process that was replaced by another of
            its name is not gone after all; it has been told.
        """
        peer, worker, boot_id = incoming.peer, hello.worker, hello.boot_id
        if m.PROTOCOL_VERSION not in hello.versions:
            raise VersionMismatch("VERSION", f"{worker} speaks {hello.versions[:8]}")
        if incoming.owner not in ("", worker):
            self._reject(peer, "NAME", f"its key is that of {incoming.owner}: start it under that --name")
        if self._workers.get(peer, worker) != worker:
            self._reject(peer, "NAME", f"this link is that of {self._workers[peer]}")
        # A hello, perhaps with a goodbye, may be the last word of a process, read after its successor's: no rival.
        if boot_id in self._replaced and worker in self._talking:
            what = (f"have the key of {worker}", "key") if incoming.owner else (f"are called {worker}", "--name")
            self._reject(peer, "NAME_TAKEN", "two workers {}: give each its own {}".format(*what))
        self.drop(worker)
        self._workers[peer], self._peers[worker] = worker, peer
        before = self._boots.of(worker) or boot_id
        self._boots.set(worker, boot_id)
        self._replaced.forget(boot_id)
        if before != boot_id:
            self._replaced.set(before, None)
        return before != boot_id

    def doubt(self, peer: bytes) -> None:
        """Something that was said on this link was not understood, or not read, and may never be said again.

        Its worker must say hello again, and with that how it stands.
        """
        if peer in self._workers:
            self._doubted.add(peer)

    def drop(self, worker: str) -> None:
        """Forget the worker's link: it must say hello again."""
        peer = self._peers.pop(worker, b"")
        self._workers.pop(peer, None)
        self._doubted.discard(peer)
        self._talking.discard(worker)

    def turn_away(self, worker: str, refusal: m.Reject) -> None:
        """Tell the worker that it may not be here any more, and forget its link."""
        self.tell(worker, refusal)
        self.drop(worker)

    def worker(self, peer: bytes) -> str | None:
        """Who speaks on this link; None before its hello, and when it must say it again."""
        return None if peer in self._doubted else self._workers.get(peer)

    def name(self, peer: bytes) -> str | None:
        """Who said hello on this link last."""
        return self._workers.get(peer)

    def send(self, peer: bytes, message: Any) -> bool:
        """Send on a link. False: it is closed."""
        return self._transport.send("control", peer, self._out.encode(message))

    def tell(self, worker: str, message: Any) -> bool:
        """Send to a worker, if it has a link. False: it has, and that is closed."""
        peer = self._peers.get(worker)
        return peer is None or self.send(peer, message)

    def tell_all(self, message: Any) -> None:
        """Send to every worker that has a link."""
        for peer in self._peers.values():
            self.send(peer, message)

    def part(self, message: m.Shutdown, patience_s: float) -> None:
        """Tell every worker that it is over until each has said goodbye, or is gone, or `patience_s` have passed.

        To send and close is not enough: a connection closed with something unread in it is reset, and the peer
        may lose what was sent last. It would then wait for us for ever.
        """
        deadline = time.monotonic() + patience_s
        for worker in [worker for worker in self._peers if not self.tell(worker, message)]:
            self.drop(worker)
        while self._peers and (left := deadline - time.monotonic()) > 0:
            for incoming in self._transport.receive(left).messages:
                if incoming.plane == "control":
                    told = not self._says_goodbye(incoming) and self.send(incoming.peer, message)
                    if not told and (name := self.worker(incoming.peer)) is not None:
                        self.drop(name)

    def dismiss(self, names: Collection[str], message: m.Shutdown, patience_s: float) -> int:
        """Tell the workers of these names that come in the next `patience_s` that it is over; how many there were."""
        deadline, told, count = time.monotonic() + patience_s, set[bytes](), 0
        # Whoever was told is waited for, as in `part`.
        while (left := deadline + (_GOODBYE_S if told else 0.0) - time.monotonic()) > 0:
            for incoming in self._transport.receive(left).messages:
                if incoming.plane == "control" and self._says_goodbye(incoming):
                    told.discard(incoming.peer)
                elif (
                    incoming.plane == "control" and self._hello(incoming) in names and self.send(incoming.peer, message)
                ):
                    count += incoming.peer not in told
                    told.add(incoming.peer)
        return count

    def _hello(self, incoming: Incoming) -> str | None:
        """Who says hello, if that is what it is."""
        try:
            message = self.decode(incoming)
        except RemoteProtocolError:
            return None
        return message.worker if isinstance(message, m.Hello) else None

    def _reject(self, peer: bytes, code: Literal["NAME", "NAME_TAKEN"], text: str) -> NoReturn:
        self.send(peer, m.Reject(code, text[:MAX_TEXT], ()))
        raise RemoteProtocolError(code, text)

    def _says_goodbye(self, incoming: Incoming) -> bool:
        try:
            return isinstance(self.decode(incoming), m.Goodbye)
        except RemoteProtocolError:
            return False
