"""What a local training gives, and how it may end without."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fedmq.errors import FedmqError
from fedmq.tensors import NamedTensors


class Stopped(FedmqError):
    """Training ended because it was told to."""


class Diverged(FedmqError):
    """The loss is not a number any more; the adapter is of no use."""


class TrainResult(NamedTuple):
    """What one local training did.

    Attributes:
      train_loss: mean negative log-likelihood per target over all steps, in nats.
      num_examples: texts trained on (each once, however many epochs).
      num_tokens: targets seen, over all epochs.
      num_steps: optimiser steps.
      train_seconds: wall time; of clients trained together, each one's share by targets.
      log_history: records as the Trainer of transformers keeps them: loss, grad_norm and learning_rate every
        `logging_steps`, eval_loss and eval_perplexity every `eval_steps`.
      memory: what the client's next training is to go on from; empty where the recipe keeps nothing.
    """

    train_loss: float
    num_examples: int
    num_tokens: int
    num_steps: int
    train_seconds: float
    log_history: list[dict[str, Any]]
    memory: NamedTensors


def diverged(what: str, step: int, num_steps: int, learning_rate: float) -> Diverged:
    """The error for what is not finite at optimiser step `step`, counted from 0."""
    return Diverged(
        f"{what} step {step + 1} of {num_steps} (learning rate {learning_rate:.3g}): training diverged; lower "
        "training.learning_rate or training.max_grad_norm"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
