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
    """The gradient of the method's term, pull * (y - x) + push, for weights that are trained from where they are now.

    Args:
      pull: of the method.
      weights: float32, as the optimiser moves them.
      pushes: for each weight, of its shape and on its device; None is 0.
    """

    def __init__(self, pull: float, weights: Sequence[torch.Tensor], pushes: Sequence[torch.Tensor | None]) -> None:
        self._pull, self._weights, self._pushes = pull, list(weights), list(pushes)
        self._start = [weight.detach().clone() for weight in self._weights] if pull else []

    @torch.no_grad()
    def add(self, scale: float = 1.0) -> None:
        """Add it to the gradients, times `scale`, which these may have been multiplied by."""
        for k, (weight, push) in enumerate(zip(self._weights, self._pushes, strict=True)):
            if weight.grad is None:
                continue
            # Not even 0 is added: a method that does nothing leaves the bits alone.
            if self._pull:
                weight.grad.add_(weight.detach() - self._start[k], alpha=self._pull * scale)
            if push is not None:
                weight.grad.add_(push, alpha=scale)
