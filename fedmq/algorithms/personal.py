"""Adapters of which clients share a part, and each keeps the rest for itself: its own model is both together.

What is its own is a client's memory (named tensors), under names with a prefix, and is in no update.
"""

from __future__ import annotations

import numpy as np

from fedmq.algorithms.lora_core import is_of
from fedmq.recipe import Factors
from fedmq.tensors import NamedTensors

#: Before the names, in a client's memory, of what is its own.
OWN = "own:"


def kept_part(adapter: NamedTensors, shared: Factors) -> dict[str, np.ndarray]:
    """What of an adapter is not sent and averaged, as its client's memory; {} where all is."""
    return {f"{OWN}{name}": value for name, value in adapter.items() if not is_of(name, shared)}


def personal(adapter: NamedTensors, memory: NamedTensors) -> dict[str, np.ndarray]:
    """A client's own model: the adapter, with what is the client's own in place of what is there.

    Args:
      adapter: whole; the shared part counts, and what a client without a memory begins with.
      memory: of the client, as `kept_part` made it; anything else in it is left aside.

    Example:
      >>> mine = personal({"x.lora_A.weight": np.ones(2), "x.lora_B.weight": np.zeros(2)}, {})
      >>> mine = personal(mine, kept_part({"x.lora_A.weight": np.zeros(2), "x.lora_B.weight": np.full(2, 5.0)}, "A"))
      >>> mine["x.lora_A.weight"], mine["x.lora_B.weight"]
      (array([1., 1.]), array([5., 5.]))
    """
    return {name: memory.get(f"{OWN}{name}", value) for name, value in adapter.items()}
