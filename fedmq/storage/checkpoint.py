"""Adapters on disk in PEFT's format: a folder that `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedmq import atomic
from fedmq.errors import StorageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
#: Folder of what was merged into the base, and the key of adapter_config.json that lists its files, oldest first.
MERGED = "merged_into_base"


class CheckpointFiles(NamedTuple):
    """Where the parts of a model are."""

    weights: Path
    config: Path
    links: tuple[Path, ...] = ()

    def missing(self) -> bool:
        """Whether any is not there."""
        return not all(path.is_file() for path in (self.weights, self.config, *self.links))


def write_checkpoint(folder: Path, weights: Path | bytes, config: Path, links: Sequence[Path] = ()) -> None:
    """Put a checkpoint in place, whole or not at all.

    Args:
      folder: such as OUTPUT_DIR/global_model/round_3; replaced when it exists.
      weights, config: durable files on the same file system, never changed in place; they are linked, not
        copied, where links are to be had. Weights may also be the bytes of a file.
      links: likewise, what was merged into the base of this adapter, oldest first. They lie in MERGED, and are listed
        in adapter_config.json: PEFT, which does not know them, warns of that key.
    """
    with atomic.replacing_folder(folder) as temp:
        _put(weights, temp / WEIGHTS)
        if links:
            content = json.loads(config.read_bytes()) | {MERGED: [path.name for path in links]}
            atomic.write_bytes(temp / CONFIG, json.dumps(content, indent=2).encode())
            (temp / MERGED).mkdir()
        else:
            _put(config, temp / CONFIG)
        for path in links:
            _put(path, temp / MERGED / path.name)


def _put(source: Path | bytes, to: Path) -> None:
    if isinstance(source, bytes):
        atomic.write_bytes(to, source)
        return
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def checkpoint_of(run_dir: Path, version: int, digest: str, links: Sequence[str] = ()) -> CheckpointFiles:
    """The files of a committed global model in its folder; written now if its round was not one of those that are kept.

    Args:
      run_dir: OUTPUT_DIR.
      version: the newest committed one, whose blob is always there, or one that was kept.
      digest: SHA-256 of its adapter file, from run.db.
      links: of what was merged into its base, likewise.

    Raises:
      StorageError: neither checkpoint nor blob is there.
    """
    found, folder = checkpoint_files(run_dir, version, digest, links), _folder(run_dir, version)
    if found.weights.parent != folder:
        write_checkpoint(folder, *found)
    return _in_folder(folder, links)


def checkpoint_files(run_dir: Path, version: int, digest: str, links: Sequence[str] = ()) -> CheckpointFiles:
    """Those of a committed global model, from its checkpoint or else its blobs. Nothing is written.

    Args, Raises: as of `checkpoint_of`.
    """
    folder, blobs = _folder(run_dir, version), run_dir / "blobs"
    in_blobs = CheckpointFiles(blobs / digest, blobs / CONFIG, tuple(blobs / link for link in links))
    for files in (_in_folder(folder, links), in_blobs):
        if not files.missing():
            return files
    raise StorageError(
        f"{run_dir} has lost its global model of round {version}: neither {folder} nor {blobs / digest} is whole"
    )


def _in_folder(folder: Path, links: Sequence[str]) -> CheckpointFiles:
    return CheckpointFiles(folder / WEIGHTS, folder / CONFIG, tuple(folder / MERGED / link for link in links))


def _folder(run_dir: Path, version: int) -> Path:
    return run_dir / "global_model" / f"round_{version}"
