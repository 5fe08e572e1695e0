"""Training passes on a card: what it does for a shape is recorded once, and then started with one call.

A step of a small batch takes a card a few milliseconds, and Python ten times as long to ask for it, kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedmq.learning.fast.adapters import Adapters
from fedmq.learning.fast.card_dropout import CardDropout, keys_of
from fedmq.learning.fast.grid import Grid, Shape, shape_of
from fedmq.learning.fast.model import PackedModel
from fedmq.learning.fast.passes import Batch, PackedPasses, Passes
from fedmq.tensors import NamedTensors

#: Recordings in memory at once; with one more, all begin anew.
_MAX_RECORDED = 64


class Card:
    """The passes of one model on a CUDA device, through one training after another.

    Args:
      model: on the device, which is the CPU in tests: there nothing is recorded.
    """

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        self._adapters: dict[int, Adapters] = {}
        self._passes: dict[Any, _Pass] = {}
        self._weights: list[int] = []
        self._pool: Any = None

    def adapters(self, starts: Sequence[NamedTensors]) -> Adapters:
        """See `Passes`: where those of the last training with as many clients were."""
        weights = [weight.data_ptr() for weight, _ in self.model.frozen.linear.values()]
        if weights != self._weights or len(self._passes) >= _MAX_RECORDED:
            # What was recorded reads the weights where they were.
            self._adapters, self._weights = {}, weights
            self._forget()
        if (made := self._adapters.get(len(starts))) is None:
            made = self._adapters[len(starts)] = self.model.adapters(starts)
        else:
            made.load(starts)
        return made

    def backward(self, adapters: Adapters, batch: Batch, checkpointing: bool) -> list[float]:
        """See `Passes`."""
        shape = shape_of(batch.texts)
        kept = batch.trunks is not None
        key = shape, kept, checkpointing
        if key not in self._passes:
            if len(self._passes) >= _MAX_RECORDED:
                self._forget()
            self._passes[key] = _Pass(self.model, adapters, shape, kept, checkpointing)
        one = self._passes[key]
        weights = [1.0 / max(1, count) for count in batch.targets]
        one.grid.fill(batch.texts, weights, keys_of(batch.seeds, batch.number))
        if one.trunk is not None and batch.trunks is not None:
            for place, rows in zip(one.trunk, batch.trunks, strict=True):
                place[: len(rows)] = rows
        return one.run(self._pool)

    def _forget(self) -> None:
        self._passes = {}
        # Never two at once, and what one leaves is read before the next: all may use the same memory.
        self._pool = torch.cuda.graph_pool_handle() if self.model.device.startswith("cuda") else None


class _Pass:
    """Forward and backward through a grid of one shape."""

    def __init__(self, model: PackedModel, adapters: Adapters, shape: Shape, kept: bool, checkpointing: bool) -> None:
        self.grid = Grid(shape, model.device)
        self.trunk = torch.zeros(shape.clients, shape.rows, model.width, device=model.device) if kept else None
        self._model, self._adapters, self._checkpointing = model, adapters, checkpointing
        self._recorded: torch.cuda.CUDAGraph | None = None
        self._sums = torch.empty(0)
        self._seen = False

    def run(self, pool: Any) -> list[float]:
        """Each client's losses, summed; gradients are added to the adapters'."""
        if not self._model.device.startswith("cuda") or self._checkpointing or not self._seen:
            # The first time warms libraries up, which cannot be recorded.
            self._seen, self._sums = True, self._compute()
        else:
            # A recording is made on the current card, whichever the tensors are on.
            with torch.cuda.device(self._model.device):
                if self._recorded is None:
                    recorded = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(recorded, pool=pool, capture_error_mode="thread_local"):
                        self._sums = self._compute()
                    self._recorded = recorded  # not before: one that ran out of memory cannot be started
                self._recorded.replay()
        return self._sums.tolist()  # type: ignore[no-any-return]

    def _compute(self) -> torch.Tensor:
        model, grid = self._model, self.grid
        trunk = None if self.trunk is None else self.trunk.flatten(0, 1)
        if trunk is None and model.first_adapted > 0:
            with torch.no_grad():
                trunk = model.trunk(grid.packed, grid.places)
        hidden = model.hidden(
            grid.packed,
            self._adapters,
            trunk=trunk,
            dropout=CardDropout(grid.keys),
            places=grid.places,
            checkpointing=self._checkpointing,
        )
        total, losses = model.loss(grid.packed, hidden, grid.weights)
        total.backward()
        real = torch.where(grid.weights > 0, losses, 0).double()
        return real.view(grid.shape.clients, -1).sum(1)


def passes_of(model: PackedModel) -> Passes:
    """How this model is trained on its device."""
    return Card(model) if model.device.startswith("cuda") else PackedPasses(model)
