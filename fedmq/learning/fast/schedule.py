"""One client's way through its texts: batches, steps, learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedmq.learning.batching import SeededOrder, lengths, usable_texts
from fedmq.recipe import TrainingRecipe
from fedmq.rng import derive


class Schedule:
    """What each optimiser step of a local training works on, as the Trainer of transformers does it.

    Attributes:
      num_examples: texts trained on.
      num_tokens: targets, over all epochs.
      num_steps: optimiser steps: an epoch's last batches make one even where they are less than
        `gradient_accumulation_steps`.
    """

    def __init__(self, texts: Sequence[np.ndarray], recipe: TrainingRecipe, seed: int, subset_seed: int) -> None:
        sizes = lengths(texts)
        self._chosen = usable_texts(sizes, recipe.max_samples_per_client, subset_seed)
        self._recipe = recipe
        self._order = SeededOrder(len(self._chosen), derive(seed, "order") if recipe.shuffle_dataset else None)
        self.num_examples = len(self._chosen)
        self.num_tokens = int((sizes[self._chosen] - 1).sum()) * recipe.num_epochs
        batches = -(-self.num_examples // recipe.batch_size)
        self.steps_per_epoch = -(-batches // recipe.gradient_accumulation_steps)
        self.num_steps = self.steps_per_epoch * recipe.num_epochs

    def steps(self) -> Iterator[list[np.ndarray]]:
        """For each step its batches, as indices of texts."""
        size = self._recipe.batch_size
        for _ in range(self._recipe.num_epochs):
            order = self._chosen[list(self._order)]
            batches = [order[start : start + size] for start in range(0, len(order), size)]
            every = self._recipe.gradient_accumulation_steps
            yield from (batches[start : start + every] for start in range(0, len(batches), every))

    def learning_rate(self, step: int) -> float:
        """Of optimiser step `step`, counted from 0: linear warm-up from 0, then linear decay to 0."""
        warmup = self._recipe.warmup_steps
        if step < warmup:
            return self._recipe.learning_rate * step / warmup
        return self._recipe.learning_rate * max(0.0, (self.num_steps - step) / max(1, self.num_steps - warmup))
