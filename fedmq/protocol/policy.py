"""What makes a round: sync, semi-sync and async differ in these values only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedmq.protocol.fields import MAX_GROUP


@dataclass(frozen=True)
class RoundPolicy:
    """When a round is full, and when it may close without all.

    Attributes:
      num_rounds: committed rounds that end the run.
      cohort: updates that make a round full; it closes with them.
      quorum: updates without which a round never commits; 1 <= quorum <= cohort.
      deadline_s: seconds after which a round closes with its quorum, or is abandoned; None waits for everyone.
      automatic_deadline: the deadline follows from the rounds before (`RoundClock`).
      over_selection: as many times more clients are drawn than make a round full; the slowest are not waited for.
      max_abandoned: times in a row that a round is drawn anew; then the run fails.
      max_attempts: failures of one task before its client is given up for the round.
      clients_per_batch: clients trained in one step; None = as many as `grouping.automatic` finds.
      batch_size: examples of one client in one step.
    """

    num_rounds: int
    cohort: int
    quorum: int
    deadline_s: float | None = None
    automatic_deadline: bool = False
    over_selection: float = 1.0
    max_abandoned: int = 3
    max_attempts: int = 2
    clients_per_batch: int | None = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.cohort:
            raise ValueError(f"need 1 <= quorum <= cohort, got {self.quorum=} {self.cohort=}")
        if self.over_selection < 1:
            raise ValueError(f"need over_selection >= 1, got {self.over_selection}")
        if self.clients_per_batch is not None and not 1 <= self.clients_per_batch <= MAX_GROUP:
            raise ValueError(f"need 1 <= clients_per_batch <= {MAX_GROUP}, got {self.clients_per_batch=}")

    def drawn(self, eligible: int) -> int:
        """How many of `eligible` clients are drawn for a round."""
        return min(eligible, math.ceil(self.cohort * self.over_selection))


@dataclass(frozen=True)
class Timers:
    """Liveness, in seconds of a monotonic clock.

    Attributes:
      start_s: how long the coordinator waits for its workers at the start, and later for a client's host.
      heartbeat_s: the interval that workers are told to keep.
      suspect_s: silence after which a worker gets no new task.
      dead_s: silence after which its task goes to another.
      stall_s: time without a step of a training after which it is stopped and tried again, or ten times the longest
        pause between two of its steps, if that is more.
    """

    start_s: float = 120.0
    heartbeat_s: float = 0.5
    suspect_s: float = 5.0
    dead_s: float = 15.0
    stall_s: float = 300.0
