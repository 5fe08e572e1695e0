"""What a rule of selection is given, and what it gives: all that is known of the clients when a round is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Candidate(NamedTuple):
    """One client that may be drawn. All of it is in run.db, and of rounds only what is committed.

    Attributes:
      client_id: its id.
      weight: what it counts in the mean by its announced size (`federated.weighting`, capped), > 0. A client that no
        worker has announced yet is taken for the lightest of the others.
      num_examples: announced; 0 before a worker has announced it.
      num_tokens: announced; likewise.
      selected: the rounds that it was drawn for, newest first.
      last_trained: the last round that an update of it is in; 0 = none.
      train_loss: of that update: mean nats per target over all of its local steps. None = none.
      train_seconds: of that update, by its worker's clock. None = none.
    """

    client_id: str
    weight: float = 1.0
    num_examples: int = 0
    num_tokens: int = 0
    selected: tuple[int, ...] = ()
    last_trained: int = 0
    train_loss: float | None = None
    train_seconds: float | None = None


class Draw(NamedTuple):
    """Which draw it is.

    Attributes:
      round: that the clients are drawn for, from 1.
      num_clients: how many, at least 1 and at most as many as there are candidates.
      rng: of this draw alone; all chance comes from it.
      attempt: how often this round was drawn before: it was abandoned, or places in it became free.
    """

    round: int
    num_clients: int
    rng: np.random.Generator
    attempt: int = 0


#: The ids; or with each what it counts in the mean, > 0, where that follows from the draw and not from the weighting.
Selection = Sequence[str] | Mapping[str, float]
#: (candidates by id, draw) -> as many of them as are to be drawn. Pure: the same arguments, the same clients.
Sampler = Callable[[Sequence[Candidate], Draw], Selection]


def require_enough(candidates: Sequence[Candidate], count: int) -> None:
    """Raise ValueError where so many cannot be drawn."""
    if not 1 <= count <= len(candidates):
        raise ValueError(f"cannot choose {count} of {len(candidates)} clients")
