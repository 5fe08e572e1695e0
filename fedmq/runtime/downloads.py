"""What tasks tell of a version beside its adapter: the delta that leads to it, and what was merged into its base."""

from __future__ import annotations

from fedmq.codec.download import DownloadCodec, Published
from fedmq.errors import RemoteProtocolError, RunError, StorageError
from fedmq.protocol.messages import BlobRef, DeltaRef
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors


def publish(
    codec: DownloadCodec, stepped: NamedTensors, before: NamedTensors, residual: NamedTensors, round: int
) -> Published:
    """What a round's model is, and how it travels; see `DownloadCodec`.

    Raises:
      RunError: what was decoded is beyond float32.
    """
    try:
        return codec.publish(stepped, before, residual)
    except RemoteProtocolError as error:
        raise RunError(
            f"round {round}: the download codec's {error}: lower the server's learning rate, or set "
            'federated.download_codec to "fp32" in a new run'
        ) from error


def delta_to(journal: Journal, blobs: BlobStore, version: int) -> DeltaRef | None:
    """What leads to a committed version from the one before; None where nothing does, or its blob is gone."""
    digest = journal.rounds(version)[0]["delta"]
    if digest is None or not blobs.has(digest):
        return None
    return DeltaRef(journal.digest(version - 1), BlobRef(digest, blobs.path(digest).stat().st_size))


def newest_link(journal: Journal, blobs: BlobStore, version: int) -> BlobRef | None:
    """The newest link of the base of a committed version; None where nothing was merged.

    Raises:
      StorageError: it is gone.
    """
    links = journal.links(version)
    if not links:
        return None
    path = blobs.path(links[-1])
    if not path.is_file():
        raise StorageError(f"{path} is gone, a part of the model of round {version}: put it back, or begin anew")
    return BlobRef(links[-1], path.stat().st_size)
