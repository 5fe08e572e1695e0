"""Who may come in: the list of keys as the simulated network has it, which storms change while a run goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedmq.transport.base import Incoming, Notice

if TYPE_CHECKING:
    from cluster import Cluster


class Door:
    """As with CURVE: a key says whose a link is. A handshake is asked about once, a message each time.

    Attributes:
      keyed: whether links have keys; without them nobody can be kept out.
      barred: workers whose key was revoked; `for_good`: those of them that are not let in again.
      known: workers whose key was ever revoked: word of it may reach them late.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.keyed = False
        self.barred, self.for_good, self.known = set[str](), set[str](), set[str]()
        self._news: list[Notice] = []

    def lets_in(self, worker: str) -> bool:
        """Whether it may be here now."""
        return worker not in self.barred

    def owner(self, worker: str) -> str:
        """What a message of this worker is marked with."""
        return worker if self.keyed else ""

    def revoke(self, worker: str, for_good: bool) -> None:
        """Let it in no more: what it had sent and nobody has read is not read either."""
        self.barred.add(worker)
        self.known.add(worker)
        if for_good:
            self.for_good.add(worker)
        if self._cluster.network.listener is not None:
            self._news.append(Notice("revoked", worker, f"the key of {worker} was revoked"))
        self._cluster.log(f"the key of {worker} is revoked{' for good' if for_good else ''}")
        self._cluster.coordinator.wake()

    def allow(self, worker: str) -> None:
        """Let it in again."""
        if worker in self.barred - self.for_good:
            self.barred.discard(worker)
            self._cluster.happens("key is allowed again")

    def opened(self) -> None:
        """A coordinator begins to listen: it knows the list as it is now."""
        self._news = []

    def news(self) -> list[Notice]:
        """What the coordinator has yet to hear."""
        news, self._news = self._news, []
        return news

    def heard(self, messages: Iterable[Incoming]) -> list[Incoming]:
        """Of these messages, those of workers that may be here now."""
        messages = list(messages)
        heard = [message for message in messages if self.lets_in(message.owner)]
        self._cluster.happened["message of a revoked key"] += len(messages) - len(heard)
        return heard
