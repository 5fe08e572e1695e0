"""The local optimiser of engine "fast"."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedmq.recipe import TrainingRecipe


def optimizer_of(recipe: TrainingRecipe, rows: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    """AdamW, or SGD as torch has it (v = momentum v + g + weight_decay y; y -= lr v).

    Args:
      recipe: of all.
      rows: each client's weights; each gets a learning rate of its own (`param_groups`, in this order).
    """
    groups = [{"params": [row]} for row in rows]
    if recipe.local_optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=recipe.sgd_momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
