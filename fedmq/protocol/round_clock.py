"""When a round has taken too long: a deadline that is given, or that follows from how long rounds took before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from fedmq.protocol.policy import RoundPolicy

#: Rounds before an automatic deadline is set, and how many of them it looks back on.
_FEWEST, _WINDOW = 3, 20
#: How many median absolute deviations above the median are late; and at least this many medians.
_DEVIATIONS, _MEDIANS = 6.0, 2.0


@dataclass
class RoundClock:
    """Of the round in work; all times are of the caller's monotonic clock, in seconds.

    Attributes:
      draw: how often the round's clients were drawn before; a round that is abandoned is drawn anew.
      durations: of the rounds that this process committed, oldest first.
    """

    policy: RoundPolicy
    opened_at: float = 0.0
    draw: int = 0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def open(self, now: float) -> None:
        """Trainings are given out from now on."""
        self.opened_at = now

    def full(self, now: float) -> None:
        """The round has what it needs: the next one is drawn for the first time."""
        self.durations.append(now - self.opened_at)
        self.draw = 0

    def deadline_s(self) -> float | None:
        """Seconds from the opening to the deadline; None where there is none (yet).

        Automatic: median + 6 x the median absolute deviation of the last 20 rounds, at least twice the median.

        Example:
          >>> clock = RoundClock(RoundPolicy(5, 2, 2, automatic_deadline=True))
          >>> clock.durations.extend([10.0, 12.0, 11.0])
          >>> clock.deadline_s()
          22.0
        """
        if not self.policy.automatic_deadline:
            return self.policy.deadline_s
        if len(self.durations) < _FEWEST:
            return None
        middle = median(self.durations)
        spread = median(abs(duration - middle) for duration in self.durations)
        return max(middle + _DEVIATIONS * spread, _MEDIANS * middle)

    def left_s(self, now: float) -> float | None:
        """Seconds to the deadline, 0 when it has passed."""
        deadline_s = self.deadline_s()
        return None if deadline_s is None else max(0.0, self.opened_at + deadline_s - now)

    def late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.left_s(now) == 0.0
