"""The local optimiser of engine "fast", and what of an optimiser's state outlives a training, under both engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedmq.algorithms.lora_core import is_of
from fedmq.recipe import Factors, TrainingRecipe
from fedmq.tensors import NamedTensors

#: Names in a client's memory: "optimizer:step", and "optimizer:SLOT:NAME" for each of the adapter's names.
_PREFIX = "optimizer:"
_STEP = "step"


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


def remembered(memory: NamedTensors, factors: Factors) -> tuple[float | None, dict[str, dict[str, np.ndarray]]]:
    """The number of steps, and slot -> name -> tensor of these factors; no slots: nothing is remembered of them."""
    slots: dict[str, dict[str, np.ndarray]] = {}
    for key, value in memory.items():
        if key.startswith(_PREFIX):
            slot, _, name = key.removeprefix(_PREFIX).partition(":")
            if name and is_of(name, factors):
                slots.setdefault(slot, {})[name] = value
    step = memory.get(f"{_PREFIX}{_STEP}")
    return None if step is None else float(step), slots


def restore(
    weight: torch.Tensor, optimizer: torch.optim.Optimizer, step: float | None, slots: Mapping[str, Any]
) -> None:
    """Have the optimiser go on with one weight: slot -> tensor of its shape, on its device."""
    if not slots:
        return
    state: dict[str, Any] = dict(slots)
    if step is not None:
        fused = optimizer.defaults.get("fused")
        state[_STEP] = torch.tensor(step, dtype=torch.float32, device=weight.device if fused else "cpu")
    optimizer.state[weight] = state


def kept(
    weights: Mapping[str, torch.Tensor],
    state: Mapping[torch.Tensor, Mapping[str, Any]],
    named: Callable[[str, torch.Tensor], NamedTensors],
) -> dict[str, np.ndarray]:
    """An optimiser's state of these weights, as a client's memory.

    Args:
      weights: by any names.
      state: of the optimiser.
      named: (a weight's name, a tensor of its shape) -> the tensor by the adapter's names.
    """
    memory: dict[str, np.ndarray] = {}
    for key, weight in weights.items():
        for slot, value in state.get(weight, {}).items():
            if slot == _STEP:
                memory[f"{_PREFIX}{_STEP}"] = np.asarray(float(value), np.float32)
            elif value is not None:
                memory |= {f"{_PREFIX}{slot}:{name}": part for name, part in named(key, value).items()}
    return memory
