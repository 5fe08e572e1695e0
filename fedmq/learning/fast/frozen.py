"""The base's weights in the precision of the engine, shared by the processes of a host where they can be."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import transformers
from transformers.pytorch_utils import Conv1D

from fedmq import atomic

log = logging.getLogger(__name__)

_HEAD = "head"
#: Of the files: names, order of axes, the centred head.
_LAYOUT = "v1"


class Frozen(NamedTuple):
    """What no training changes.

    Attributes:
      linear: path of a module in the base -> weight (in, out) and bias (out,) or None, of one dtype.
      head: (d, vocabulary), of that dtype.
    """

    linear: dict[str, tuple[torch.Tensor, torch.Tensor | None]]
    head: torch.Tensor

    def replace(self, path: str, weight: torch.Tensor) -> None:
        """Another weight, float32 (in, out), of a module: from now on all compute with it, in its precision."""
        old, bias = self.linear[path]
        self.linear[path] = weight.to(old.dtype), bias


def frozen_weights(base: transformers.PreTrainedModel, dtype: torch.dtype, digest: str) -> Frozen:
    """The weights of all linear layers of a base, on its device.

    In float32 they are the base's own, which lie in the page cache as its file does. In bfloat16 on a
    CPU they are a file too, made once for each host and base in the user's cache folder and mapped by all
    processes, so that more workers need no more memory.

    Args:
      base: its modules may be wrapped by peft's.
      dtype: float32 or bfloat16.
      digest: SHA-256 in hex of the base.
    """
    modules = dict(_linear_modules(base))
    head = base.get_output_embeddings().weight
    if dtype == head.dtype:
        tensors = {_HEAD: head.detach()}
        tensors |= {f"{path}.{name}": value for path, m in modules.items() for name, value in _parts(m)}
    elif head.device.type == "cpu":
        tensors = _shared(modules, head, dtype, digest)
    else:
        tensors = _cast(modules, head, dtype)
    linear = {}
    for path, module in modules.items():
        weight = tensors[f"{path}.weight"]
        # nn.Linear stores (out, in), GPT-2's Conv1D (in, out); a transposed view costs a product nothing.
        linear[path] = (weight if isinstance(module, Conv1D) else weight.mT, tensors.get(f"{path}.bias"))
    return Frozen(linear, tensors[_HEAD].mT)


def cache_folder() -> Path:
    """Where the bfloat16 files are: fedmq/ in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmq"


def _shared(
    modules: dict[str, torch.nn.Module], head: torch.Tensor, dtype: torch.dtype, digest: str
) -> dict[str, torch.Tensor]:
    path = cache_folder() / f"{digest}.{str(dtype).removeprefix('torch.')}-{_LAYOUT}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Workers start together: one makes the file, and all map that one.
        with open(path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                try:
                    return safetensors.torch.load_file(path)
                except safetensors.SafetensorError as error:
                    log.warning("%s is damaged (%s): it is made again", path, error)
            atomic.write_bytes(path, safetensors.torch.save(_cast(modules, head, dtype)))
            return safetensors.torch.load_file(path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        log.warning("%s cannot be used (%s): this process keeps its own copy of the weights", path, error)
        return _cast(modules, head, dtype)


def _cast(modules: dict[str, torch.nn.Module], head: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {f"{path}.{name}": value.to(dtype) for path, m in modules.items() for name, value in _parts(m)}
    # What all logits of a row have in common does not change their softmax; without it, the few digits of
    # bfloat16 hold what differs.
    tensors[_HEAD] = (head.detach() - head.detach().mean(0)).to(dtype)
    return tensors


def _linear_modules(base: transformers.PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    for path, module in base.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)) and ".lora_" not in path and path != "lm_head":
            yield path.removesuffix(".base_layer"), module


def _parts(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in module.named_parameters(recurse=False):
        yield name, value.detach()
