"""Which modules of a base get an adapter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import transformers
from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from fedmq.errors import ModelError
from fedmq.recipe import LoRASpec


def lora_config(name: str, base: transformers.PreTrainedModel, lora: LoRASpec) -> tuple[LoraConfig, list[str]]:
    """peft's configuration, and the paths of the modules that get an adapter.

    Raises:
      ModelError: a target module or a layer that the base has not.
    """
    possible, matched = dict(_possible_targets(base)), []
    for target in lora.target_modules:
        # As peft matches: the whole path, or its end.
        found = [path for path in possible if path == target or path.endswith("." + target)]
        matched += found
        if not found:
            known = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in possible))
            raise ModelError(
                f"lora.target_modules: {target!r} matches no layer of base model {name!r}; these would: {known}"
            )
    layers = lora.layers_to_transform
    if layers is not None and max(layers) >= base.config.num_hidden_layers:
        raise ModelError(
            f"lora.layers_to_transform: base model {name!r} has layers 0 to {base.config.num_hidden_layers - 1}, "
            f"none {max(layers)}"
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=sorted(lora.target_modules),
        lora_dropout=lora.lora_dropout,
        layers_to_transform=None if layers is None else sorted(layers),
        bias=lora.bias,
        task_type=lora.task_type,
        # GPT-2's Conv1D stores its weight as (in, out), the transpose of nn.Linear's.
        fan_in_fan_out=any(isinstance(possible[path], Conv1D) for path in matched),
    )
    return config, matched


def _possible_targets(base: transformers.PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    embedding = base.get_input_embeddings().weight
    for path, module in base.named_modules():
        # A head tied to the embedding has no weight of its own to adapt.
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module.weight is not embedding:
            yield path, module
