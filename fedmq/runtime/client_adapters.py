"""client_K/round_N of a run's folder: the adapter of each client as it was folded."""

from __future__ import annotations

from pathlib import Path

from fedmq.codec import raw
from fedmq.codec.update import UpdateCodec
from fedmq.storage.blobs import BlobStore
from fedmq.storage.checkpoint import write_checkpoint
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors


def adapter_before(journal: Journal, blobs: BlobStore, round: int) -> NamedTensors | None:
    """The global adapter that a committed round began with; None when its blob is deleted."""
    digest = journal.digest(round - 1)
    if not blobs.has(digest):
        return None
    content = blobs.read(digest)
    return raw.decode(content, raw.read_spec(content))


def keep_client_adapters(
    run_dir: Path, journal: Journal, blobs: BlobStore, config: Path, codec: UpdateCodec, round: int, again: bool
) -> None:
    """Write what is missing of a committed round, as far as its blobs are still there.

    Args:
      run_dir, journal, blobs, config: of the run; the last is its adapter_config.json.
      codec: that updates came in.
      round: whose updates.
      again: also those that are there: a process that was killed may not have made their names durable.
    """
    base: NamedTensors | None = None
    for row in journal.folded(round):
        folder, blob = run_dir / row["client"] / f"round_{round}", blobs.path(row["digest"])
        if not (again or not folder.is_dir()) or not blob.is_file():
            continue
        if codec.whole:
            write_checkpoint(folder, blob, config)
            continue
        base = base or adapter_before(journal, blobs, round)
        if base is None:
            return  # it is deleted only after all of these were written
        write_checkpoint(folder, raw.encode(codec.decode(blobs.read(row["digest"]), base)), config)
