"""When tasks were given out and answered: what a run's timeline is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fedmq.protocol.limits import Recent


class Times(NamedTuple):
    """Of one task, in seconds of the journal's clock.

    Attributes:
      assigned_at: the worker was told of it.
      offered_at: it said that it has a result.

    None where it is not known: another process of this run gave it out, or took the offer.
    """

    assigned_at: float | None = None
    offered_at: float | None = None


UNKNOWN = Times()


class TaskTimes:
    """Of the tasks that are out; the oldest are forgotten when there are too many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: Recent[tuple[str, str], Times] = Recent(Times)

    def assigned(self, worker: str, tasks: Iterable[str]) -> None:
        """They are given to this worker."""
        for task in tasks:
            self._of.set((worker, task), Times(self._clock()))

    def offered(self, worker: str, task: str) -> None:
        """It has a result; said again, the first time counts."""
        times = self._of.of((worker, task))
        if times.offered_at is None:
            self._of.set((worker, task), times._replace(offered_at=self._clock()))

    def take(self, worker: str, task: str) -> Times:
        """The task is over."""
        times = self._of.of((worker, task))
        self._of.forget((worker, task))
        return times
