"""A real trainer that lies: it sends the global adapter with noise instead of what it learnt, well-formed and finite.

Each lie is a line of the file FEDMQ_POISONED: the task's round, and the norm of what is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedmq import rng, tensors
from fedmq.codec import raw
from fedmq.protocol import trainer_link as link
from fedmq.runtime import trainer

#: of each number; A is made with some 0.2, B with 0
DEVIATION = 5.0


class PoisoningTrainer(trainer.Trainer):
    """Trains as any, and sends something else."""

    def _train(self, begin: link.Begin, *arguments: Any) -> Iterator[link.Trained | link.Failed]:
        assert begin.adapter is not None
        content = Path(begin.adapter).read_bytes()
        self._global, self._round = raw.decode(content, raw.read_spec(content)), begin.tasks[0].round
        yield from super()._train(begin, *arguments)

    def _write(self, path: str, adapter: dict[str, Any]) -> tuple[str, int]:
        draw = rng.derive(0, "lie", self._round)
        lie = {name: draw.normal(scale=DEVIATION, size=value.shape) for name, value in sorted(adapter.items())}
        with open(os.environ["FEDMQ_POISONED"], "a") as file:
            print(self._round, tensors.l2_norm(lie), file=file)
        return super()._write(path, tensors.astype(tensors.add(self._global, lie), np.float32))


if __name__ == "__main__":
    trainer.Trainer = PoisoningTrainer  # type: ignore[misc]
    trainer.main()
