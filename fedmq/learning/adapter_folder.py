"""An adapter on disk, as peft reads it: adapter_model.safetensors and adapter_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fedmq.atomic import replacing_folder, write_bytes
from fedmq.errors import StorageError
from fedmq.tensors import NamedTensors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write_adapter(folder: Path, tensors: NamedTensors, config: Mapping[str, Any]) -> None:
    """Write an adapter folder, whole or not at all; equal arguments give equal bytes.

    Args:
      folder: replaced if it is there.
      tensors: float32, named as in a PEFT state dict.
      config: the content of adapter_config.json.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp()) / "adapter"
      >>> write_adapter(folder, {"x.lora_A.weight": np.ones((2, 3), np.float32)}, {"r": 2})
      >>> tensors, config = read_adapter(folder)
      >>> tensors["x.lora_A.weight"].shape, config
      ((2, 3), {'r': 2})
    """
    with replacing_folder(folder) as temporary:
        ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
        write_bytes(temporary / WEIGHTS, safetensors.numpy.save(ordered))
        write_bytes(temporary / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def read_adapter(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the configuration of an adapter folder.

    Raises:
      StorageError: a file is missing or damaged.
    """
    try:
        tensors = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"{folder} holds no adapter: {error.filename} is missing") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StorageError(f"the adapter in {folder} cannot be read: {error}") from error
    return tensors, config
