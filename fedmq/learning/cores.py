"""R of adapters with three factors (`fedmq.algorithms.lora_core`) in a peft model, which has two: its B is B R."""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch.nn.utils import parametrize

#: peft's names of B and R -> the adapter's
_NAMES = {".lora_B.default.parametrizations.weight.original": ".lora_B.weight"}
_NAMES |= {".lora_B.default.parametrizations.weight.0.core": ".lora_R.weight"}


class _TimesCore(torch.nn.Module):
    """B -> B R, in float32 also where the rest is computed in fewer digits."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.core = torch.nn.Parameter(torch.eye(rank))

    def forward(self, b: torch.Tensor) -> torch.Tensor:
        with torch.autocast(b.device.type, enabled=False):
            return b @ self.core


def put_cores(model: PeftModel) -> None:
    """Give every adapted module an R, the identity: B and R are parameters of the model, and its layers see B R."""
    for layer in list(model.modules()):
        if isinstance(layer, LoraLayer):
            for b in layer.lora_B.values():
                parametrize.register_parametrization(b, "weight", _TimesCore(b.in_features))


def name_of(name: str) -> str:
    """The adapter's name of what peft's state dict calls so.

    Example:
      >>> name_of("h.0.lora_B.default.parametrizations.weight.0.core"), name_of("h.0.lora_A.weight")
      ('h.0.lora_R.weight', 'h.0.lora_A.weight')
    """
    for end, ours in _NAMES.items():
        if name.endswith(end):
            return name.removesuffix(end) + ours
    return name
