"""Adapters on disk in PEFT's format: a folder that `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fedmq import atomic
from fedmq.errors import StorageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write_checkpoint(folder: Path, weights: Path, config: Path) -> None:
    """Put a checkpoint in place, whole or not at all.

    Args:
      folder: such as OUTPUT_DIR/global_model/round_3; replaced when it exists.
      weights, config: durable files on the same file system, never changed in place; they are linked, not
        copied, where links are to be had.
    """
    with atomic.replacing_folder(folder) as temp:
        for source, name in ((weights, WEIGHTS), (config, CONFIG)):
            try:
                os.link(source, temp / name)
            except OSError:
                shutil.copyfile(source, temp / name)


def checkpoint_of(run_dir: Path, version: int | None = None) -> Path:
    """The folder of a run's global model: of one version, or the final or else newest one.

    Raises:
      StorageError: there is none.
    """
    models = run_dir / "global_model"
    if version is not None:
        candidates = [models / f"round_{version}"]
    else:
        numbered = [p for p in models.glob("round_*") if p.name.removeprefix("round_").isdigit()]
        numbered.sort(key=lambda p: int(p.name.removeprefix("round_")), reverse=True)
        candidates = [models / "round_final", *numbered]
    for folder in candidates:
        if (folder / WEIGHTS).is_file():
            return folder
    raise StorageError(f"{run_dir} holds no global model: run it first (looked for {candidates[0]})")
