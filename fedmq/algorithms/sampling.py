"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def uniform(clients: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` of `clients`, uniformly and without replacement.

    Args:
      clients: distinct ids, in any order: the draw depends on the set only.
      count: 1 <= count <= len(clients).
      rng: of this round alone (`fedmq.rng.derive(seed, "select", round)`).

    Returns:
      The chosen ids, sorted.

    Raises:
      ValueError: count is out of range.

    Example:
      >>> uniform(["c", "a", "b"], 3, np.random.default_rng(0))
      ['a', 'b', 'c']
    """
    pool = sorted(clients)
    if not 1 <= count <= len(pool):
        raise ValueError(f"cannot choose {count} of {len(pool)} clients")
    chosen = rng.choice(len(pool), size=count, replace=False)
    return [pool[i] for i in sorted(chosen)]
