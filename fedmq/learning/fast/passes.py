"""Training passes over packed texts, forward and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch

from fedmq.learning.fast.adapters import Adapters
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.fast.model import PackedModel
from fedmq.tensors import NamedTensors


class Batch(NamedTuple):
    """What goes through a model in one pass.

    Attributes:
      texts: of each client, none where it has finished.
      targets: of each client's whole step, by which its gradient is divided.
      seeds: of each client's dropout.
      number: of the pass in the training.
      trunks: of each client's texts what goes into the lowest adapted layer, float32 (tokens, d); None where that is to
        be computed.
    """

    texts: Sequence[Sequence[np.ndarray]]
    targets: Sequence[int]
    seeds: Sequence[int]
    number: int
    trunks: Sequence[torch.Tensor] | None


class Passes(Protocol):
    """How engine "fast" trains on a kind of device."""

    @property
    def model(self) -> PackedModel:
        """The frozen base."""
        ...

    def adapters(self, starts: Sequence[NamedTensors]) -> Adapters:
        """Where clients' adapters are in one training, side by side."""
        ...

    def backward(self, adapters: Adapters, batch: Batch, checkpointing: bool) -> list[float]:
        """Add each client's mean gradient to that of its adapter.

        Args:
          adapters: from `adapters`, of the last training that was begun.
          batch: of as many clients.
          checkpointing: as of `PackedModel.hidden`.

        Returns:
          The sum of each client's losses, in nats.
        """
        ...


class PackedPasses:
    """Passes without any padding but what attention needs."""

    def __init__(self, model: PackedModel) -> None:
        self.model = model

    def adapters(self, starts: Sequence[NamedTensors]) -> Adapters:
        """See `Passes`."""
        return self.model.adapters(starts)

    def backward(self, adapters: Adapters, batch: Batch, checkpointing: bool) -> list[float]:
        """See `Passes`."""
        model = self.model
        packed = model.pack(batch.texts)
        trunk = None
        if model.first_adapted > 0:
            with torch.no_grad():
                trunk = model.trunk(packed) if batch.trunks is None else torch.cat(list(batch.trunks))
        dropout = Dropout(batch.seeds, batch.number, packed)
        bounds = packed.target_bounds
        each = torch.tensor([1.0 / max(1, count) for count in batch.targets])
        counts = torch.tensor([end - start for start, end in pairwise(bounds)])
        weights = each.repeat_interleave(counts).to(model.device)
        hidden = model.hidden(packed, adapters, trunk=trunk, dropout=dropout, checkpointing=checkpointing)
        total, losses = model.loss(packed, hidden, weights)
        total.backward()
        sums = torch.stack([losses[start:end].double().sum() for start, end in pairwise(bounds)])
        return sums.tolist()  # type: ignore[no-any-return]
