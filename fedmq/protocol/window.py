"""A credit window over one blob: which pieces may be in flight. The same for both directions.

The receiver of a download asks for pieces; the sender of an upload sends them. Either way at most
`credits` pieces of `chunk_nbytes` are unconfirmed, so memory is bounded and a slow link is not flooded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Window:
    """Sequential transfer of `total` bytes.

    Attributes:
      total, chunk_nbytes: bytes.
      credits: pieces in flight at most.
      confirmed: bytes known to have arrived, all from offset 0.
      sent: bytes asked for or sent so far; >= confirmed.

    Example:
      >>> window = Window(total=5, chunk_nbytes=2, credits=2)
      >>> window.due(), window.due()
      ([(0, 2), (2, 2)], [])
      >>> window.confirm(2), window.due()
      (None, [(4, 1)])
    """

    total: int
    chunk_nbytes: int
    credits: int
    confirmed: int = 0
    sent: int = 0

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.confirmed >= self.total

    def due(self) -> list[tuple[int, int]]:
        """(offset, nbytes) of the pieces that may go now; they count as sent."""
        pieces = []
        limit = min(self.total, self.confirmed + self.credits * self.chunk_nbytes)
        while self.sent < limit:
            nbytes = min(self.chunk_nbytes, self.total - self.sent)
            pieces.append((self.sent, nbytes))
            self.sent += nbytes
        return pieces

    def confirm(self, offset: int) -> None:
        """The receiver holds the first `offset` bytes. Less than before: it threw bytes away, and wants them again."""
        if offset < self.confirmed:
            self.sent = offset
        self.confirmed = offset
        self.sent = max(self.sent, offset)

    def rewind(self) -> None:
        """What was in flight is lost: send again from what is confirmed."""
        self.sent = self.confirmed
