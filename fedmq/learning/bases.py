"""Frozen bases: loaded from safetensors, told apart by a digest."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

import torch
import transformers

from fedmq.errors import ModelError
from fedmq.learning.tokenizer import library_warnings_to_log, one_line

#: Of Linux's mman.h.
_MADV_DONTNEED = 4


def load_base(name: str, folder: Path) -> transformers.PreTrainedModel:
    """The model in a folder, in float32; its weights stay in the page cache where the file has that precision.

    Raises:
      ModelError: it cannot be read, or weights are missing.
    """
    try:
        with library_warnings_to_log():
            # No pickle: a folder with pytorch_model.bin alone is refused.
            base, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # the library raises nearly anything on a damaged or foreign file
        raise ModelError(f"base model {name!r} cannot be loaded from {folder}: {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"base model {name!r}: {len(missing)} of its weights are not in {folder}, first {missing[0]}")
    return base


def digest(base: transformers.PreTrainedModel) -> str:
    """SHA-256 over the model type and the names, shapes and bytes of all weights, tied ones once."""
    sha = hashlib.sha256(base.config.model_type.encode())
    seen: set[int] = set()
    for name, value in sorted(base.state_dict().items()):
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            sha.update(repr((name, tuple(value.shape))).encode())
            sha.update(value.contiguous().numpy())
    return sha.hexdigest()


def release_pages(base: transformers.PreTrainedModel) -> None:
    """Take the pages of a frozen base's file out of this process; what is used comes back from the page cache.

    The digest has read every page of the base in float32, and of those engine "fast" uses a few rows of the
    embedding where its own weights are bfloat16. Does nothing where the weights are not mapped from a
    file, or where there is no /proc (Linux has it).

    Args:
      base: nobody has written to its weights, and nobody will.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    addresses = [weight.data_ptr() for weight in base.parameters()]
    for line in maps.read_text().splitlines():
        if not line.endswith(".safetensors"):
            continue
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if any(start <= address < end for address in addresses):
            advise(start, end - start, _MADV_DONTNEED)
