"""What a run's journal keeps of a client among its meta values: its size, and who hosts it."""

from __future__ import annotations

import json
from typing import NamedTuple


class Hosted(NamedTuple):
    """What workers have announced of a client.

    Attributes:
      num_examples, num_tokens: its size.
      workers: that host it, also those that are away.
      gone: they were away for so long that it was given up.
    """

    num_examples: int
    num_tokens: int
    workers: tuple[str, ...]
    gone: bool = False

    @staticmethod
    def key(client: str) -> str:
        """Where it is among the meta values."""
        return f"hosted/{client}"

    def encoded(self) -> str:
        """As a meta value."""
        return json.dumps(self)

    @classmethod
    def decoded(cls, value: str) -> Hosted:
        """The inverse of `encoded`.

        Example:
          >>> Hosted.decoded(Hosted(10, 250, ("w0", "w1")).encoded())
          Hosted(num_examples=10, num_tokens=250, workers=('w0', 'w1'), gone=False)
        """
        num_examples, num_tokens, workers, gone = json.loads(value)
        return cls(num_examples, num_tokens, tuple(workers), gone)
