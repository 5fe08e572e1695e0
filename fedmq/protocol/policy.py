"""What makes a round: sync, semi-sync and async differ in these values only."""

from __future__ import annotations

from dataclasses import dataclass

from fedmq.protocol.fields import MAX_GROUP


@dataclass(frozen=True)
class RoundPolicy:
    """When a round is full, and when it may close without all.

    Attributes:
      num_rounds: committed rounds that end the run.
      cohort: clients selected for a round.
      quorum: updates without which a round never commits; 1 <= quorum <= cohort.
      deadline_s: seconds after which a round closes with its quorum; None waits for everyone.
      max_attempts: failures of one task before its client is given up for the round.
      clients_per_batch: clients trained in one step; None = as many as `grouping.automatic` finds.
      batch_size: examples of one client in one step.
    """

    num_rounds: int
    cohort: int
    quorum: int
    deadline_s: float | None = None
    max_attempts: int = 2
    clients_per_batch: int | None = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.cohort:
            raise ValueError(f"need 1 <= quorum <= cohort, got {self.quorum=} {self.cohort=}")
        if self.clients_per_batch is not None and not 1 <= self.clients_per_batch <= MAX_GROUP:
            raise ValueError(f"need 1 <= clients_per_batch <= {MAX_GROUP}, got {self.clients_per_batch=}")


@dataclass(frozen=True)
class Timers:
    """Liveness, in seconds of a monotonic clock.

    Attributes:
      start_s: how long the coordinator waits for its workers at the start, and later for a client's host.
      heartbeat_s: the interval that workers are told to keep.
      suspect_s: silence after which a worker gets no new task.
      dead_s: silence after which its task goes to another.
    """

    start_s: float = 120.0
    heartbeat_s: float = 0.5
    suspect_s: float = 5.0
    dead_s: float = 15.0
