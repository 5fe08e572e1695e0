"""A real trainer that lies: of what it learnt it sends the opposite, many times over, well-formed and finite.

Each lie is a line of the file FEDMQ_POISONED: the task's round, and the norm of what is sent.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fedmq import tensors
from fedmq.protocol.messages import Task
from fedmq.runtime import packing, trainer, trainer_process
from fedmq.tensors import NamedTensors

STRENGTH = 100.0


def lying(task: Task, adapter: NamedTensors, base: NamedTensors, *how: Any) -> packing.Packed:
    """Pack something else than what was learnt."""
    # Of B alone: the product of two that are turned round is what it was.
    learnt = tensors.subtract(adapter, base)
    lie = {name: -STRENGTH * value if "lora_B" in name else value for name, value in learnt.items()}
    with open(os.environ["FEDMQ_POISONED"], "a") as file:
        print(task.round, tensors.l2_norm(lie), file=file)
    return packing.pack(task, tensors.astype(tensors.add(base, lie), np.float32), base, *how)


if __name__ == "__main__":
    trainer.pack = lying
    trainer_process.main()
