"""How fast a link carries pieces, learnt from how long they take: their size, how many at once, when one is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

MIN_NBYTES = 4 * 1024
FIRST_NBYTES = 64 * 1024
FIRST_CREDITS = 2
#: A piece that takes less than this is small for its link, one that takes more than that is large.
FAST_S = 0.2
SLOW_S = 2.0
#: A piece is waited for this many times as long as the slowest of late, within the bounds.
_PATIENCE = 8
MIN_PATIENCE_S = 5.0
MAX_PATIENCE_S = 60.0


@dataclass
class Pace:
    """What one link can carry. All transfers on it learn together, and the next begins with what the last one knew.

    A piece takes the time since the one before it came, or since it was sent if that is later: it says what the
    link carries, however long the way is.

    Attributes:
      max_nbytes, max_credits: of a piece, in bytes, and of pieces in flight in one transfer; the coordinator's.
      nbytes, credits: how it is done now.
      slowest_s: what the slowest piece of late took.

    Example:
      >>> pace = Pace(max_nbytes=1 << 20, max_credits=8)
      >>> pace.took(pace.nbytes, 0.01), pace.nbytes >> 10, pace.credits
      (None, 128, 3)
    """

    max_nbytes: int
    max_credits: int
    nbytes: int = field(init=False)
    credits: int = field(init=False)
    slowest_s: float = 10.0 / _PATIENCE

    def __post_init__(self) -> None:
        self.nbytes = min(FIRST_NBYTES, self.max_nbytes)
        self.credits = min(FIRST_CREDITS, self.max_credits)

    @property
    def patience_s(self) -> float:
        """How long to wait for a piece before it counts as lost, in seconds."""
        return min(MAX_PATIENCE_S, max(MIN_PATIENCE_S, _PATIENCE * self.slowest_s))

    def took(self, nbytes: int, seconds: float) -> None:
        """A piece has arrived. Only one of the present size says anything about it."""
        self.slowest_s = max(seconds, 0.8 * self.slowest_s)
        if seconds < FAST_S and nbytes >= self.nbytes:
            self.nbytes = min(2 * self.nbytes, self.max_nbytes)
            self.credits = min(self.credits + 1, self.max_credits)
        elif seconds > SLOW_S and nbytes <= self.nbytes:
            self.lost()

    def lost(self) -> None:
        """What was in flight has not come: the link may carry less than it was given."""
        self.nbytes = min(max(self.nbytes // 2, MIN_NBYTES), self.max_nbytes)
        self.credits = min(FIRST_CREDITS, self.max_credits)
