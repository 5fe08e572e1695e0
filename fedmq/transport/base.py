"""The transport seam: what the runtime needs of a network, and nothing of ZeroMQ.

A coordinator listens on two planes; a worker dials both. Control carries small headers, data
carries a header and a payload, on connections of their own so that bulk never delays a heartbeat.
Every call is made from one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

Plane = Literal["control", "data"]
Payload = bytes | memoryview
NoticeKind = Literal["revoked", "stranger", "list", "gateway", "linked"]


class Incoming(NamedTuple):
    """What came in.

    Attributes:
      peer: a handle good for answering on the same plane while the link lasts.
      frames: the last one of the data plane may be a view of the transport's own memory.
      owner: the worker whose key the link has; "" where there are no keys.
    """

    plane: Plane
    peer: bytes
    frames: tuple[Payload, ...]
    owner: str = ""


class Notice(NamedTuple):
    """What happened at the door: a key was revoked, a stranger knocked, the list cannot be read, the gateway is gone.

    A worker is told when its control plane has a new link ("linked"), on which nobody knows it yet.
    """

    kind: NoticeKind
    worker: str = ""
    text: str = ""


class Received(NamedTuple):
    """The result of one wait.

    Attributes:
      messages: in order of arrival.
      readable: of the file descriptors that were asked for.
      notices: from the door, at the coordinator.
      relinked: at the worker, the data plane has a new link; what was on its way on an older one may be lost.
    """

    messages: list[Incoming]
    readable: list[int]
    notices: Sequence[Notice] = ()
    relinked: bool = False


class CoordinatorTransport(Protocol):
    """The listening end."""

    #: where workers connect to, with the real port
    address: str
    data_port: int

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        """Queue a message without blocking. False: the peer is gone, or takes no more for now."""
        ...

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        """Wait until something comes, a descriptor is readable, or the time is over.

        Raises:
          RunError: nobody can be reached any more; the transport is closed.
        """
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """Close for good; what is queued has `linger_s` seconds to leave."""
        ...


class WorkerTransport(Protocol):
    """The dialling end."""

    def dial_data(self, port: int) -> None:
        """Connect the data plane, on the control plane's host. A second call with the same port does nothing."""
        ...

    def send(self, plane: Plane, header: bytes, payload: Payload = b"") -> bool:
        """Queue a message without blocking. False: no link, or it takes no more for now."""
        ...

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        """Wait until something comes, a descriptor is readable, or the time is over.

        Raises:
          KeyRefused, ServerKeyMismatch: we shall never be let in.
        """
        ...

    def rebuild(self) -> None:
        """Drop every link and dial again: libzmq does not heal all that breaks."""
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """Close for good."""
        ...
