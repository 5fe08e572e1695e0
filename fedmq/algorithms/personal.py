"""Adapters of which clients share a part, and each keeps the rest for itself: its own model is both together.

What is its own is a client's memory (named tensors), under names with a prefix, and is in no update.
"""

from __future__ import annotations

import numpy as np

from fedmq.algorithms.lora_core import of_factors
from fedmq.recipe import Shared
from fedmq.tensors import NamedTensors

#: Before the names, in a client's memory, of what is its own.
OWN = "own:"


def shared_part(adapter: NamedTensors, shared: Shared) -> dict[str, np.ndarray]:
    """What of an adapter is sent and averaged: all that is no LoRA factor is, too, unless every client is alone.

    Example:
      >>> adapter = {f"h.0.{name}": np.zeros(1) for name in ("lora_A.weight", "lora_B.weight", "bias")}
      >>> list(shared_part(adapter, "A")), list(shared_part(adapter, "none"))
      (['h.0.lora_A.weight', 'h.0.bias'], [])
    """
    return {} if shared == "none" else of_factors(adapter, shared)


def kept_part(adapter: NamedTensors, shared: Shared) -> dict[str, np.ndarray]:
    """The rest, as its client's memory; {} where all is shared."""
    sent = shared_part(adapter, shared)
    return {f"{OWN}{name}": value for name, value in adapter.items() if name not in sent}


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
