"""When tasks were given out and answered."""

from __future__ import annotations

import itertools

from fedmq.runtime.task_times import UNKNOWN, TaskTimes, Times


def test_each_worker_has_times_of_its_own_and_the_first_offer_counts() -> None:
    seconds = itertools.count()
    times = TaskTimes(lambda: float(next(seconds)))
    times.assigned("w", ["t", "u"])  # at 0 and 1
    times.assigned("v", ["t"])  # at 2
    times.offered("w", "t")  # at 3
    times.offered("w", "t")
    assert times.take("w", "t") == Times(0.0, 3.0)
    assert times.take("w", "t") == UNKNOWN
    assert times.take("v", "t") == Times(2.0, None)


def test_an_offer_of_what_another_process_gave_out() -> None:
    times = TaskTimes(lambda: 7.0)
    times.offered("w", "t")
    assert times.take("w", "t") == Times(None, 7.0)
