"""Peers that send far too much: strangers with links of their own, and workers that repeat what they said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from network import WAYS, Line

from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.transport.base import Incoming, Payload, Plane

if TYPE_CHECKING:
    from cluster import Cluster

#: Names of those that flood. With keys these are allowed, and host nothing.
STRANGERS = ("mallory-0", "mallory-1", "mallory-2")
_CONTROL, _DATA = Codec(m.TO_COORDINATOR), Codec(m.DATA_TO_COORDINATOR)
#: What a worker may say twice at any time. A process says hello, that it is ready, and goodbye when it is so.
_REPEATABLE = (m.Offer, m.Heartbeat, m.Evaluated, m.Generated, m.TaskFailed, m.Get, m.Put)
#: Repeated at once: fewer than are a flood.
_AT_ONCE = 60


class Leech:
    """A stranger's link: it reads nothing."""

    def __init__(self, plane: Plane) -> None:
        self.plane, self.peer = plane, b""
        self.ends = dict.fromkeys(WAYS, 0.0)

    def carry(self, way: str, header: bytes, payload: Payload) -> bool:
        """The coordinator sends something."""
        return True

    def hang_up(self) -> None:
        """The coordinator closes it."""


class Flood:
    """One stranger, for a while: what it says is noise, or well-formed and of no use, each time on other links."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._dice = cluster, cluster.dice
        self._name = self._dice.choice(STRANGERS)
        self._batch = self._dice.choice([5, 15, 60])
        self._beats = self._dice.randint(2, 6)
        self._beat()

    def _beat(self) -> None:
        listener, self._beats = self._cluster.network.listener, self._beats - 1
        if listener is not None and not listener.blocking:
            owner = self._cluster.network.door.owner(self._name)
            peers: dict[Plane, bytes] = {plane: listener.admit(Leech(plane)) for plane in ("control", "data")}
            for _ in range(self._batch):
                plane: Plane = self._dice.choice(["control", "data"])
                listener.take(Incoming(plane, peers[plane], self._noise(plane), owner))
            self._cluster.happened["message of a flood"] += self._batch
            # The coordinator is not told of it at once.
            for peer in peers.values():
                self._cluster.after(self._dice.uniform(0, 5), listener.gone, peer)
        if self._beats:
            self._cluster.after(self._dice.uniform(0.05, 0.5), self._beat)

    def _noise(self, plane: Plane) -> tuple[bytes, ...]:
        dice = self._dice
        if dice.random() < 0.1:
            return tuple(dice.randbytes(dice.randint(0, 40)) for _ in range(dice.randint(1, 3)))
        token, digest = dice.randbytes(16).hex(), dice.randbytes(32).hex()
        if plane == "data":
            said = dice.choice([m.Get(digest, 0, 100), m.Put(token, digest, 0)])
            return _DATA.encode(said), dice.choice([b"", b"x" * 50]) if isinstance(said, m.Put) else b""
        offer = m.Offer("train-1-client_0-0", token, m.BlobRef(digest, 100), 10, 100, 5, 2.5, 1.0, 0, "", False)
        hello = m.Hello((m.PROTOCOL_VERSION,), self._name, token)
        return (_CONTROL.encode(dice.choice([hello, hello, m.Heartbeat(None, "idle", 0, 0), m.Goodbye("x"), offer])),)


def repeat(cluster: Cluster, line: Line) -> bool:
    """A worker says again what it said last on this link; whether there was anything."""
    codec = _CONTROL if line.plane == "control" else _DATA
    again = [frames for frames in line.said if isinstance(codec.decode(frames[0]), _REPEATABLE)]
    for frames in again * max(1, _AT_ONCE // max(1, len(again))):
        line.carry("up", frames[0], frames[1] if len(frames) > 1 else b"")
    return bool(again)
