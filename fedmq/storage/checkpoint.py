"""Adapters on disk in PEFT's format: a folder that `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from fedmq import atomic
from fedmq.errors import StorageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
#: Key of CONFIG. PEFT, which does not know it, warns of it.
MERGED = "merged_into_base"


def write_checkpoint(folder: Path, weights: Path | bytes, config: Path, links: Sequence[str] = ()) -> None:
    """Put a checkpoint in place, whole or not at all.

    Args:
      folder: such as OUTPUT_DIR/global_model/round_3; replaced when it exists.
      weights, config: durable files on the same file system, never changed in place; they are linked, not
        copied, where links are to be had. Weights may also be the bytes of a file.
      links: SHA-256 of what was merged into the base that this adapter stands on, oldest first: under MERGED in CONFIG.
        The files are blobs of the run.
    """
    told: Path | bytes = config
    if links:
        told = json.dumps(json.loads(config.read_bytes()) | {MERGED: list(links)}, indent=2).encode()
    with atomic.replacing_folder(folder) as temp:
        for source, name in ((weights, WEIGHTS), (told, CONFIG)):
            if isinstance(source, bytes):
                atomic.write_bytes(temp / name, source)
                continue
            try:
                os.link(source, temp / name)
            except OSError:
                shutil.copyfile(source, temp / name)


def checkpoint_of(
    run_dir: Path,
    version: int,
    digest: str,
    links: Sequence[str] = (),
    of_blob: Callable[[Path], Path | bytes] = lambda blob: blob,
) -> Path:
    """The folder of a committed global model; written now if its round was not one of those that are kept.

    Args:
      run_dir: OUTPUT_DIR.
      version: the newest committed one, whose blob is always there, or one that was kept.
      digest: SHA-256 of its adapter file, from run.db.
      links: as of `write_checkpoint`.
      of_blob: what is kept of a blob.

    Raises:
      StorageError: neither checkpoint nor blob is there.
    """
    folder = _folder(run_dir, version)
    weights, config = checkpoint_files(run_dir, version, digest)
    if weights.parent != folder:
        write_checkpoint(folder, of_blob(weights), config, links)
    return folder


def checkpoint_files(run_dir: Path, version: int, digest: str) -> tuple[Path, Path]:
    """(weights, config) of a committed global model, from its checkpoint or else its blob. Nothing is written.

    Args, Raises: as of `checkpoint_of`.
    """
    folder, blobs = _folder(run_dir, version), run_dir / "blobs"
    for files in ((folder / WEIGHTS, folder / CONFIG), (blobs / digest, blobs / CONFIG)):
        if all(path.is_file() for path in files):
            return files
    raise StorageError(
        f"{run_dir} has lost its global model of round {version}: neither {folder} nor {blobs / digest} is whole"
    )


def _folder(run_dir: Path, version: int) -> Path:
    return run_dir / "global_model" / f"round_{version}"
