"""Where a run stands, which phase may follow which, and how far an earlier process of the run came."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from fedmq.protocol.grouping import Size


class Phase(Enum):
    """Where the run stands."""

    WAITING = "waiting for workers"
    INITIALISING = "making the first adapter"
    SELECTING = "selecting clients"
    COLLECTING = "training"
    AGGREGATING = "aggregating"
    FINISHING = "evaluating the last model"
    ENDED = "ended"


PHASES: dict[Phase, set[Phase]] = {
    Phase.WAITING: {Phase.INITIALISING, Phase.SELECTING, Phase.COLLECTING, Phase.FINISHING, Phase.ENDED},
    Phase.INITIALISING: {Phase.SELECTING, Phase.FINISHING, Phase.ENDED},
    Phase.SELECTING: {Phase.COLLECTING, Phase.ENDED},
    Phase.COLLECTING: {Phase.AGGREGATING, Phase.SELECTING, Phase.ENDED},
    Phase.AGGREGATING: {Phase.SELECTING, Phase.FINISHING, Phase.ENDED},
    Phase.FINISHING: {Phase.ENDED},
    Phase.ENDED: set(),
}


class Progress(NamedTuple):
    """How far an earlier process of this run came.

    Attributes:
      version: last committed global version; None when there is no first adapter yet.
      selected: clients of the round that was open, in the groups that are trained together; () when none was.
      accepted: clients whose updates of that round are durable, with the digests of these.
      unevaluated: committed versions that still have no evaluation.
      draw: how often that round was abandoned and its clients drawn anew; or places in it were filled.
      hosts: of every client that was announced so far, the workers that host it, also those that are away.
      sizes: of the same clients.
      gone: those of them that were given up, as nobody had hosted them for too long.
      started: of the `selected`, whose training began in an earlier round, with that round: of an asynchronous run.
      ungenerated: committed versions that have continued no prompts.
    """

    version: int | None = None
    selected: tuple[tuple[str, ...], ...] = ()
    accepted: tuple[tuple[str, str], ...] = ()
    unevaluated: tuple[int, ...] = ()
    draw: int = 0
    hosts: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    sizes: Mapping[str, Size] = MappingProxyType({})
    gone: tuple[str, ...] = ()
    started: tuple[tuple[str, int], ...] = ()
    ungenerated: tuple[int, ...] = ()
