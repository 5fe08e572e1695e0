"""A credit window over one blob: which pieces may be in flight. The same for both directions.

The receiver of a download asks for pieces; the sender of an upload sends them. Either way only as many are
unconfirmed as its pace allows, so memory is bounded and a slow link is not flooded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from fedmq.protocol.pace import Pace


class _Piece(NamedTuple):
    end: int
    nbytes: int
    sent_at: float


@dataclass
class Window:
    """Sequential transfer of `total` bytes. `now` is monotonic time in seconds, everywhere.

    Attributes:
      total: bytes.
      pace: of the link; it learns from what is confirmed here.
      confirmed: bytes known to have arrived, all from offset 0.
      sent: bytes asked for or sent so far; >= confirmed.

    Example:
      >>> window = Window(total=5, pace=Pace(max_nbytes=2, max_credits=2))
      >>> window.due(0.0), window.due(0.0)
      ([(0, 2), (2, 2)], [])
      >>> window.confirm(2, 0.1), window.due(0.1)
      (True, [(4, 1)])
    """

    total: int
    pace: Pace
    confirmed: int = 0
    sent: int = field(init=False)
    _flight: deque[_Piece] = field(default_factory=deque, init=False)
    _confirmed_at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self.sent = self.confirmed

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.confirmed >= self.total

    def due(self, now: float) -> list[tuple[int, int]]:
        """(offset, nbytes) of the pieces that may go now; they count as sent."""
        pieces = []
        while self.sent < self.total and len(self._flight) < self.pace.credits:
            nbytes = min(self.pace.nbytes, self.total - self.sent)
            pieces.append((self.sent, nbytes))
            self.sent += nbytes
            self._flight.append(_Piece(self.sent, nbytes, now))
        return pieces

    def unsend(self, offset: int) -> None:
        """The piece at `offset`, and those after it, could not go after all."""
        self.sent = offset
        while self._flight and self._flight[-1].end > offset:
            self._flight.pop()

    def confirm(self, offset: int, now: float) -> bool:
        """The receiver holds the first `offset` bytes. Less than before: it threw bytes away, and wants them again.

        Returns whether that is news.
        """
        before, self.confirmed = self.confirmed, offset
        if offset < before:
            self.rewind()
        self.sent = max(self.sent, offset)
        while self._flight and self._flight[0].end <= offset:
            piece = self._flight.popleft()
            self.pace.took(piece.nbytes, now - max(piece.sent_at, self._confirmed_at))
            self._confirmed_at = now
        return offset != before

    def rewind(self) -> None:
        """What was in flight is lost: send again from what is confirmed."""
        self.sent = self.confirmed
        self._flight.clear()
