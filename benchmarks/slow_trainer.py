"""The real trainer on a device that is FEDMQ_SLOWER times slower: after each step it sleeps for so much of it."""

from __future__ import annotations

import os
import time

from fedmq.protocol import trainer_link as link
from fedmq.runtime import trainer, trainer_process

SLOWER = float(os.environ["FEDMQ_SLOWER"])


class SlowTrainer(trainer.Trainer):
    """Steps of training, evaluation and generation all take as many times longer."""

    _since = 0.0

    def _answer(self, begin: link.Begin) -> None:
        self._since = time.monotonic()
        super()._answer(begin)

    def _on_step(self, step: int, total_steps: int) -> None:
        time.sleep((SLOWER - 1) * (time.monotonic() - self._since))
        super()._on_step(step, total_steps)
        self._since = time.monotonic()


if __name__ == "__main__":
    trainer.Trainer = SlowTrainer  # type: ignore[misc]
    trainer_process.main()
