"""An adapter on disk, as peft reads it: adapter_model.safetensors and adapter_config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fedmq.atomic import replacing_folder, write_bytes
from fedmq.errors import StorageError
from fedmq.tensors import NamedTensors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
#: Key of CONFIG for the names of files, oldest first, in a folder of that name: what was merged into the base.
MERGED = "merged_into_base"


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
    with _readable(folder):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return read_tensors(folder / WEIGHTS), config


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file of an adapter folder.

    Raises:
      StorageError: it is missing or damaged.
    """
    with _readable(path):
        return safetensors.numpy.load(path.read_bytes())


@contextmanager
def _readable(of: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{of} is not a whole adapter: {error.filename} is missing") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StorageError(f"{of} cannot be read: {error}") from error
