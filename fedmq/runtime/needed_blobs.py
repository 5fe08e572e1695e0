"""Which blobs of a run are still needed: of versions that workers ask for, and of the open round."""

from __future__ import annotations

from collections.abc import Collection

from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal


def delete_unneeded(
    journal: Journal, blobs: BlobStore, versions: Collection[int], in_use: Collection[str] = ()
) -> None:
    """Delete every blob but adapters and deltas of these versions, links of the base, and what the next round needs.

    That is what is remembered beside the newest version, updates that wait, and the versions that these began with.

    Args:
      journal, blobs: of the run.
      versions: committed ones that may be asked for, the newest among them.
      in_use: digests of others that may be.
    """
    newest = max(versions)
    waiting = journal.updates(newest + 1)
    wanted = {*versions, *(row["started"] - 1 for row in waiting)}
    rows = [row for row in journal.rounds(min(wanted)) if row["round"] in wanted]
    keep = {row[name] for row in rows for name in ("digest", "delta")} | {journal.optimizer(newest)}
    keep |= {*journal.links(newest), *(row["digest"] for row in waiting)}
    for path in blobs.folder.iterdir():
        if path.suffix == "" and not path.name.startswith(".") and path.name not in {*keep, *in_use}:
            blobs.remove(path.name)
