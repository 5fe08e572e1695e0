"""What a run remembers of who hosts a client."""

from __future__ import annotations

import json
from typing import NamedTuple, Self


class Hosted(NamedTuple):
    """What workers have announced of a client: its size, and who hosts it, also those that are away."""

    num_examples: int
    num_tokens: int
    workers: tuple[str, ...]

    @staticmethod
    def key(client: str) -> str:
        """Where it is among the journal's meta values."""
        return f"hosted/{client}"

    def encoded(self) -> str:
        """As a meta value.

        Example:
          >>> Hosted.decode(Hosted(2, 50, ("worker_0",)).encoded())
          Hosted(num_examples=2, num_tokens=50, workers=('worker_0',))
        """
        return json.dumps(self)

    @classmethod
    def decode(cls, value: str) -> Self:
        """From a meta value."""
        num_examples, num_tokens, workers = json.loads(value)
        return cls(num_examples, num_tokens, tuple(workers))
