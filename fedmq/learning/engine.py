"""Which engine computes a model, and in which precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from fedmq.errors import ConfigError
from fedmq.learning.fast.model import unsupported
from fedmq.learning.precision import faster_dtype
from fedmq.recipe import LoRASpec


def choose_engine(
    engine: str,
    precision: str,
    *,
    name: str,
    base: transformers.PreTrainedModel,
    lora: LoRASpec,
    targets: Sequence[str],
    device: str,
) -> tuple[torch.dtype | None, str]:
    """The dtype of the frozen weights under engine "fast", or None for engine "hf", and a line about it for the log.

    Args:
      engine: "auto", "fast" or "hf".
      precision: as returned by `require_precision`.
      name: of the base, for the message.
      base, lora, targets: see `fedmq.learning.fast.model.unsupported`.
      device: "cpu", "cuda:N" or "mps".

    Raises:
      ConfigError: engine "fast" was asked for and cannot be had.
    """
    if engine == "hf":
        return None, "engine hf"
    reason = unsupported(base, lora, targets)
    if device == "mps":
        reason = "it runs on CPU and CUDA, this worker's device is mps"
    if precision == "fp16":
        reason = "it computes in float32 or bfloat16, the precision is fp16"
    if reason is not None:
        if engine == "fast":
            raise ConfigError(
                f'training.engine "fast" cannot train base model {name!r}: {reason}; '
                'set training.engine to "auto" or "hf"'
            )
        return None, f"engine hf, as fast cannot: {reason}"
    known = {"fp32": torch.float32, "bf16": torch.bfloat16}
    dtype = known[precision] if precision in known else faster_dtype(device, base.config.hidden_size)
    return dtype, f"engine fast, {'bf16' if dtype is torch.bfloat16 else 'fp32'} weights"
