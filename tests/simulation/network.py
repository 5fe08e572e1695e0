"""A simulated network: the transports' seam, with connections that are slow, stall, break and come back.

As with TCP, what one connection carries arrives in order or not at all; a connection that breaks loses what comes
after some point, each way another, and is dialled anew, as libzmq does, under another handle at the coordinator.
The data plane may also lose, repeat, delay and damage single messages: transfers promise to live with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from door import Door

from fedmq.errors import KeyRefused
from fedmq.transport.base import Incoming, Payload, Plane, Received

if TYPE_CHECKING:
    from cluster import Cluster
    from flood import Leech

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")
#: Messages under way on one line, as by libzmq's high-water mark.
_MAX_QUEUED = {"control": 64, "data": 16}
#: Messages of a worker that the network knows of each connection.
_REMEMBERED = 20
#: Silence after which libzmq's own heartbeats give a connection up.
_HEARTBEAT_S = 15.0
#: Refusals in a row that a worker takes which was let in before; one that never was takes the first.
_MAX_REFUSED = 3


@dataclass
class Weather:
    """What single messages suffer. Chances of the data plane are of each message; `breaks` of each on any plane.

    Attributes:
      delay_s: at most.
      twice: chance that a control message comes again at once.
    """

    delay_s: float = 0.02
    breaks: float = 0.0
    twice: float = 0.0
    lost: float = 0.0
    again: float = 0.0
    late: float = 0.0
    damaged: float = 0.0


class Line:
    """One plane's connection from one worker, dialled again whenever it is broken."""

    def __init__(self, network: Network, plane: Plane, socket: WorkerSocket) -> None:
        self.network, self.plane, self.socket = network, plane, socket
        self.peer: bytes | None = None
        self.closed = False
        self.stalled_until: dict[Way, float] = dict.fromkeys(WAYS, 0.0)
        self._begin()
        network.cluster.after(0.01, self.dial)

    def _begin(self) -> None:
        self.last_due: dict[Way, float] = dict.fromkeys(WAYS, 0.0)
        self.queued: dict[Way, int] = dict.fromkeys(WAYS, 0)
        #: of the worker, what it said last on this connection
        self.said: list[tuple[bytes, ...]] = []
        #: of this connection, shared with its messages under way: they are lost if they are due later
        self.ends: dict[Way, float] = dict.fromkeys(WAYS, float("inf"))

    def dial(self) -> None:
        """Connect, now or when the coordinator can be reached."""
        cluster, listener = self.network.cluster, self.network.listener
        if self.closed or self.peer is not None:
            return
        if listener is None or max(self.stalled_until.values()) > cluster.now:
            cluster.after(cluster.dice.uniform(0.2, 1.5), self.dial)
            return
        if not self.socket.asks():
            cluster.after(cluster.dice.uniform(0.2, 1.5), self.dial)
            return
        self._begin()
        self.peer = listener.admit(self)

    def hang_up(self, final: bool = False, lingering: bool = False) -> None:
        """The connection is broken. `lingering`: what is under way to the coordinator still arrives."""
        self.closed = self.closed or final
        if self.peer is None:
            return
        cluster, listener, peer = self.network.cluster, self.network.listener, self.peer
        for way in WAYS:
            if not (lingering and way == "up"):
                self.ends[way] = cluster.now + cluster.dice.choice([0.0, 0.0, cluster.dice.uniform(0, 1)])
        self.peer = None
        if listener is not None:
            # The other end may notice later: until then it sends to nobody.
            cluster.after(cluster.dice.choice([0.0, 0.0, cluster.dice.uniform(0, _HEARTBEAT_S)]), listener.gone, peer)
        if not self.closed:
            cluster.after(cluster.dice.uniform(0.2, 1.5), self.dial)

    def stall(self, ways: Sequence[Way], seconds: float) -> None:
        """A partition: nothing passes for a while; if it is long, the connection is given up."""
        for way in ways:
            self.stalled_until[way] = self.network.cluster.now + seconds
            self.last_due[way] = max(self.last_due[way], self.stalled_until[way])
        if seconds > _HEARTBEAT_S:
            peer = self.peer
            self.network.cluster.after(_HEARTBEAT_S, lambda: self.hang_up() if self.peer == peer else None)

    def carry(self, way: Way, header: bytes, payload: Payload) -> bool:
        """Take a message; False when there is no connection, or too much is under way."""
        cluster, weather = self.network.cluster, self.network.weather
        if self.peer is None or self.queued[way] >= _MAX_QUEUED[self.plane]:
            return False
        frames = (header,) if self.plane == "control" else (header, bytes(payload))
        if way == "up":
            self.said = [*self.said[-_REMEMBERED:], frames]
        if self.plane == "control":
            copies = 2 if cluster.chance(weather.twice, "message twice") else 1
        else:
            copies = 0 if cluster.chance(weather.lost, "data lost") else 1
            copies += int(cluster.chance(weather.again, "data again"))
            if frames[1] and cluster.chance(weather.damaged, "data damaged"):
                frames = (header, bytes([frames[1][0] ^ 1]) + frames[1][1:])
        for _ in range(copies):
            due = max(cluster.now + cluster.dice.uniform(0, weather.delay_s), self.stalled_until[way])
            if self.plane == "data" and cluster.chance(weather.late, "data late"):
                due += cluster.dice.uniform(0, 2)
            else:
                due = self.last_due[way] = max(due, self.last_due[way])
            self.queued[way] += 1
            cluster.after(due - cluster.now, self._arrive, way, self.peer, frames, self.ends, self.queued)
        if cluster.chance(weather.breaks, "link broken by a message"):
            self.hang_up()
        return True

    def _arrive(
        self, way: Way, peer: bytes, frames: tuple[bytes, ...], ends: dict[Way, float], queued: dict[Way, int]
    ) -> None:
        queued[way] -= 1
        if self.network.cluster.now > ends[way]:
            return
        if way == "down":
            self.socket.take(Incoming(self.plane, b"", frames), self)
        elif self.network.listener is not None and self.network.listener.knows(peer):
            self.network.listener.take(Incoming(self.plane, peer, frames, self.socket.owner))


class Listener:
    """The coordinator's end: `CoordinatorTransport`."""

    address = "simulated://"
    data_port = 1

    def __init__(self, network: Network) -> None:
        self._network, self._inbox = network, list[Incoming]()
        self._lines: dict[bytes, Line | Leech] = {}
        #: every handle that this process ever gave: messages of a connection that broke may still come
        self._given: set[bytes] = set()
        #: whether `receive` waits by itself, because no turn of its process will come
        self.blocking = False
        network.listener = self
        network.door.opened()

    def admit(self, line: Line | Leech) -> bytes:
        """A new connection's handle."""
        peer = b"%d" % self._network.next_handle()
        self._lines[peer] = line
        self._given.add(peer)
        return peer

    def gone(self, peer: bytes) -> None:
        """It has noticed that a connection is broken."""
        self._lines.pop(peer, None)

    def knows(self, peer: bytes) -> bool:
        """Whether the connection was made with this process."""
        return peer in self._given

    @property
    def pending(self) -> bool:
        """Whether something waits to be read."""
        return bool(self._inbox)

    def take(self, incoming: Incoming) -> None:
        """A message has arrived."""
        self._inbox.append(incoming)
        self._network.cluster.coordinator.wake()

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        line = self._lines.get(peer)
        if line is None or line.plane != plane:
            return False
        if plane == "control":
            self._network.cluster.witness.told(header)
        # A connection that is broken, which this end has not noticed yet, swallows what it is given.
        return line.peer != peer or line.carry("down", header, payload)

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        if self.blocking and not self._inbox:
            self._network.cluster.wait(timeout_s, lambda: bool(self._inbox))
        # The others are read in the next turn, as if they had come a moment later.
        count = self._network.cluster.dice.randint(1, 1 + len(self._inbox))
        messages, self._inbox = self._inbox[:count], self._inbox[count:]
        return Received(self._network.door.heard(messages), [], self._network.door.news())

    def close(self, linger_s: float = 0.0) -> None:
        for line in list(self._lines.values()):
            line.hang_up()
            # In order: all that was sent arrives.
            line.ends["down"] = self._network.cluster.now + linger_s
        self._network.listener = None

    def crash(self) -> None:
        """Its process is gone."""
        self._network.listener = None
        for line in list(self._lines.values()):
            line.hang_up()


class WorkerSocket:
    """The worker's end: `WorkerTransport`."""

    def __init__(self, network: Network, worker: str) -> None:
        self._network, self._worker, self._inbox = network, worker, list[Incoming]()
        self.lines: dict[Plane, Line] = {"control": Line(network, "control", self)}
        self._refused, self._entered = 0, False

    @property
    def pending(self) -> bool:
        """Whether something waits to be read."""
        return bool(self._inbox)

    @property
    def owner(self) -> str:
        """Whose key it has."""
        return self._network.door.owner(self._worker)

    def asks(self) -> bool:
        """Show the key at the door: whether it lets a link of this socket in."""
        if self._network.door.lets_in(self._worker):
            self._refused, self._entered = 0, True
            return True
        self._network.cluster.happened["link of a revoked key"] += 1
        self._refused += 1
        self._network.cluster.workers[self._worker].wake()
        return False

    def take(self, incoming: Incoming, line: Line) -> None:
        """A message has arrived."""
        if self.lines.get(line.plane) is line:
            self._inbox.append(incoming)
            self._network.cluster.workers[self._worker].wake()

    def dial_data(self, port: int) -> None:
        if "data" not in self.lines:
            self.lines["data"] = Line(self._network, "data", self)

    def send(self, plane: Plane, header: bytes, payload: Payload = b"") -> bool:
        line = self.lines.get(plane)
        return line is not None and line.carry("up", header, payload)

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        if self._refused >= (_MAX_REFUSED if self._entered else 1):
            raise KeyRefused("simulated:// does not allow this worker's key")
        count = self._network.cluster.dice.randint(1, 1 + len(self._inbox))
        messages, self._inbox = self._inbox[:count], self._inbox[count:]
        return Received(messages, self._network.cluster.workers[self._worker].readable(fds))

    def rebuild(self) -> None:
        for plane, line in list(self.lines.items()):
            line.hang_up(final=True)
            self.lines[plane] = Line(self._network, plane, self)
            # A partition is of the place, not of the socket.
            self.lines[plane].stalled_until = line.stalled_until
        self._inbox = []

    def close(self, linger_s: float = 0.0) -> None:
        for line in self.lines.values():
            line.hang_up(final=True, lingering=linger_s > 0)
        self.lines = {}


class Network:
    """All lines, and the weather."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.weather, self.door = cluster, Weather(), Door(cluster)
        self.listener: Listener | None = None
        self._handles = 0

    def next_handle(self) -> int:
        """Handles of connections are never used twice."""
        self._handles += 1
        return self._handles

    def lines(self) -> list[Line]:
        """Every line that some worker has now."""
        return [line for worker in self.cluster.workers.values() for line in worker.lines()]
