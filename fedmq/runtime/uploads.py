"""What of an adapter each update carries, and how it travels, as the coordinator decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fedmq.codec.part import of_part, start
from fedmq.codec.update import UpdateCodec
from fedmq.recipe import Factors, Part
from fedmq.tensors import NamedTensors


class Uploads(NamedTuple):
    """The updates of a run, before any has come.

    Attributes:
      codec: of whole adapters.
      sent: round -> the LoRA factors that its updates carry.
      ranks: client -> the rank of its adapter; those that are not named have all of it.
    """

    codec: UpdateCodec
    sent: Callable[[int], Factors]
    ranks: Mapping[str, int]

    def part(self, client: str, round: int) -> Part:
        """What a client trains from and sends, in a training of this round."""
        return Part(self.sent(round), self.ranks.get(client))

    def nowhere(self, hosted: Iterable[str]) -> list[str]:
        """Clients that have a rank and are not among these."""
        return sorted(self.ranks.keys() - set(hosted))

    def start(self, client: str, round: int, adapter: NamedTensors) -> NamedTensors:
        """What the client trains from, where the global adapter is this one."""
        return start(self.part(client, round), adapter)

    def of(self, client: str, round: int) -> UpdateCodec:
        """How its update travels: whatever else comes is refused."""
        return of_part(self.codec, self.part(client, round))
