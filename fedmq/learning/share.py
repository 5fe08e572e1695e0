"""One client's part in a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedmq.learning.batching import lengths
from fedmq.tensors import NamedTensors


@dataclass(frozen=True)
class Share:
    """What one client trains on.

    Attributes:
      texts: 1-D integer arrays of token ids, EOS last.
      seed: 32 bits; order and dropout are drawn from it.
      subset_seed: decides which texts `max_samples_per_client` leaves; the same in all rounds of a client.
      val: scored every `eval_steps` steps, if there are any.
      memory: what the client's last training gave as `TrainResult.memory`, empty before its first; and what came
        with the adapter (`fedmq.algorithms.local_methods.CONTROL`).
      start: the adapter that it trains from; None is the model's.
      snapshot_dir: every `save_steps` steps the adapter is written to snapshot_dir/step_N.
    """

    texts: Sequence[np.ndarray]
    seed: int
    subset_seed: int = 0
    val: Sequence[np.ndarray] | None = None
    snapshot_dir: Path | None = None
    memory: NamedTensors = field(default_factory=dict)
    start: NamedTensors | None = None

    @property
    def scored(self) -> Sequence[np.ndarray] | None:
        """`val`, if any of its texts has a target."""
        return self.val if self.val is not None and (lengths(self.val) >= 2).any() else None
