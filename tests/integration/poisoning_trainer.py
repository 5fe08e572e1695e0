"""A real trainer that lies: of what it learnt it sends the opposite, many times over, well-formed and finite.

Each lie is a line of the file FEDMQ_POISONED: the task's round, and the norm of what is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedmq import tensors
from fedmq.codec import raw
from fedmq.protocol import trainer_link as link
from fedmq.runtime import trainer

STRENGTH = 100.0


class PoisoningTrainer(trainer.Trainer):
    """Trains as any, and sends something else."""

    def _train(self, begin: link.Begin, *arguments: Any) -> Iterator[link.Trained | link.Failed]:
        assert begin.adapter is not None
        content = Path(begin.adapter).read_bytes()
        self._global, self._round = raw.decode(content, raw.read_spec(content)), begin.tasks[0].round
        yield from super()._train(begin, *arguments)

    def _write(self, path: str, adapter: dict[str, Any]) -> tuple[str, int]:
        # Of B alone: the product of two that are turned round is what it was.
        learnt = tensors.subtract(adapter, self._global)
        lie = {name: -STRENGTH * value if "lora_B" in name else value for name, value in learnt.items()}
        with open(os.environ["FEDMQ_POISONED"], "a") as file:
            print(self._round, tensors.l2_norm(lie), file=file)
        return super()._write(path, tensors.astype(tensors.add(self._global, lie), np.float32))


if __name__ == "__main__":
    trainer.Trainer = PoisoningTrainer  # type: ignore[misc]
    trainer.main()
