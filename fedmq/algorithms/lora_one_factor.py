"""Rules under which the clients of a round train one LoRA factor, and have the others in common: no bias is left.

The update s B A (or s B R A) is linear in each factor, so the mean of that one gives the mean of the products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.lora_core import is_of
from fedmq.recipe import Factors


def ffa() -> Aggregator:
    """A stays as it was made, clients train B: the mean of the B_k gives the mean of the products, without bias.

    Reference:
      Sun et al. 2024, FFA-LoRA (arXiv 2403.12313).
    """
    return one_factor(lambda round: "B")


def rolora() -> Aggregator:
    """Clients train B in odd rounds and A in even ones, so that the other is common to all; without bias.

    B comes first: while B is 0, as it is made, A has no gradient.

    Reference:
      Chen et al. 2025, RoLoRA (arXiv 2502.01755).
    """
    return one_factor(lambda round: "B" if round % 2 else "A")


def one_factor(trained: Callable[[int], Factors]) -> Aggregator:
    """The mean of the factor that is trained in a round; of the others, no client moves anything.

    Args:
      trained: round (from 1) -> the factor.
    """
    mean = fedavg()

    def fold(state: Any, update: Update, weight: float) -> Any:
        moving = trained(update.base_version + 1)
        moved = {name: x if is_of(name, moving) else np.zeros_like(x) for name, x in update.delta.items()}
        return mean.fold(state, update._replace(delta=moved), weight)

    return Aggregator(mean.init, fold, mean.finish, trained)
