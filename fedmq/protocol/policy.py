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
      cohort: updates that make a round full; it closes with them. Of an asynchronous run it is the buffer.
      quorum: updates without which a round never commits; 1 <= quorum <= cohort.
      deadline_s: seconds after which a round closes with its quorum, or is abandoned; None waits for everyone.
      automatic_deadline: the deadline follows from the rounds before (`RoundClock`).
      over_selection: as many times more clients are drawn than make a round full; the slowest are not waited for.
      max_abandoned: times in a row that a round is drawn anew; then the run fails.
      max_attempts: failures of one task before its client is given up for the round.
      clients_per_batch: clients trained in one step; None = as many as `grouping.automatic` finds.
      batch_size: examples of one client in one step.
      concurrency: clients in training at a time, whatever the round: the run is asynchronous (FedBuff; FedAsync with a
        cohort of 1). None: clients are drawn for a round, and train for that round only.
      max_staleness: of an asynchronous run: an update counts in a round if its training began at most so many before.
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
    concurrency: int | None = None
    max_staleness: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.cohort:
            raise ValueError(f"need 1 <= quorum <= cohort, got {self.quorum=} {self.cohort=}")
        if self.over_selection < 1:
            raise ValueError(f"need over_selection >= 1, got {self.over_selection}")
        if self.clients_per_batch is not None and not 1 <= self.clients_per_batch <= MAX_GROUP:
            raise ValueError(f"need 1 <= clients_per_batch <= {MAX_GROUP}, got {self.clients_per_batch=}")

        if self.concurrency is not None and not self.cohort <= self.concurrency:
            raise ValueError(f"need cohort <= concurrency, got {self.cohort=} {self.concurrency=}")
        if self.max_staleness < 0:
            raise ValueError(f"need max_staleness >= 0, got {self.max_staleness=}")

    @property
    def asynchronous(self) -> bool:
        """Whether trainings outlive the round that they began in."""
        return self.concurrency is not None

    @property
    def all_count(self) -> bool:
        """Whether every training that is begun is waited for."""
        deadline = self.automatic_deadline or self.deadline_s is not None
        return not self.asynchronous and not deadline and self.over_selection == 1

    def places(self, taken: int) -> int:
        """How many clients may begin to train when `taken` do already."""
        return (self.concurrency or math.ceil(self.cohort * self.over_selection)) - taken

    def oldest_wanted(self, round: int) -> int:
        """The oldest round whose trainings an open `round` takes.

        Example:
          >>> policy = RoundPolicy(9, 2, 2, concurrency=4, max_staleness=3)
          >>> policy.oldest_wanted(5)
          2
        """
        return max(1, round - self.max_staleness) if self.asynchronous else round


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
