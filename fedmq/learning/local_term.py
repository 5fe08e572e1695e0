"""What the local method adds to the gradients of a training, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from fedmq.algorithms import local_methods
from fedmq.algorithms.local_methods import LocalMethod
from fedmq.recipe import LocalMethodSpec


def method_of(spec: LocalMethodSpec) -> LocalMethod:
    """The method that a recipe names."""
    options = {name: value for name, value in asdict(spec).items() if name != "name" and value is not None}
    return local_methods.BY_NAME[spec.name](**options)


class LocalTerm:
    """The gradient of the method's term, for weights that are trained from where they are now.

    Args:
      method: of the recipe.
      weights: float32, as the optimiser moves them.
    """

    def __init__(self, method: LocalMethod, weights: Sequence[torch.Tensor]) -> None:
        self._pull = method.pull
        self._weights = list(weights)
        self._start = [weight.detach().clone() for weight in self._weights] if self._pull else []

    @torch.no_grad()
    def add(self, scale: float = 1.0) -> None:
        """Add it to the gradients, times `scale`, which these may have been multiplied by."""
        if not self._pull:
            return
        for weight, start in zip(self._weights, self._start, strict=True):
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - start, alpha=self._pull * scale)
