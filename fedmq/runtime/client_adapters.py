"""client_K/round_N of a run's folder: the adapter of each client as it was folded."""

from __future__ import annotations

from pathlib import Path

from fedmq.codec import raw
from fedmq.runtime.updates import Updates
from fedmq.storage.blobs import BlobStore
from fedmq.storage.checkpoint import write_checkpoint
from fedmq.storage.journal import Journal


def keep_client_adapters(
    run_dir: Path, journal: Journal, blobs: BlobStore, config: Path, updates: Updates, round: int, again: bool
) -> None:
    """Write what is missing of a committed round, as far as its blobs are still there.

    Args:
      run_dir, journal, blobs, config: of the run; the last is its adapter_config.json.
      updates: reads them.
      round: whose updates.
      again: also those that are there: a process that was killed may not have made their names durable.
    """
    held, base = 0, None
    for row in journal.folded(round):
        folder, blob = run_dir / row["client"] / f"round_{round}", blobs.path(row["digest"])
        if not (again or not folder.is_dir()) or not blob.is_file():
            continue
        if updates.codec.whole:
            write_checkpoint(folder, blob, config)
            continue
        if row["started"] != held:
            held, base = row["started"], updates.base(row)
        if base is None:
            return  # it is deleted only after all of these were written
        write_checkpoint(folder, raw.encode(updates.adapter(row, base)), config)
