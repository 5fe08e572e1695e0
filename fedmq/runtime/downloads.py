"""What tasks tell of a version beside its adapter: the delta that leads to it, and what was merged into its base."""

from __future__ import annotations

import contextlib

from fedmq.codec.download import DownloadCodec, Published
from fedmq.errors import RemoteProtocolError, RunError, StorageError
from fedmq.protocol.fields import MAX_BASES
from fedmq.protocol.messages import BlobRef, DeltaRef
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors

#: more than any delta replaces
_ALL = frozenset({""})


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


class Deltas:
    """What leads to each version.

    Which older versions a delta applies to is found out as versions are told of: a process that goes on with a run
    knows of the one before, and of those since it began.

    Args:
      journal, blobs: of the run.
      codec: of its downloads.
    """

    def __init__(self, journal: Journal, blobs: BlobStore, codec: DownloadCodec) -> None:
        self._journal, self._blobs, self._codec = journal, blobs, codec
        #: version -> tensors that its delta replaces, where it does nothing else
        self._replaced: dict[int, frozenset[str]] = {}

    def to(self, version: int) -> DeltaRef | None:
        """What leads to a committed version from older ones; None where nothing does, or its blob is gone."""
        digest = self._journal.rounds(version)[0]["delta"]
        if digest is None or not self._blobs.has(digest):
            return None
        self._look_into(version, digest)
        bases = [self._journal.digest(version - 1)]
        for between in range(version - 1, version - MAX_BASES, -1):
            # What the round `between` moved as well, this delta replaces: it leads from before that one, too.
            if not self._replaced.get(between, _ALL) <= self._replaced.get(version, frozenset()):
                break
            bases.append(self._journal.digest(between - 1))
        return DeltaRef(tuple(bases), BlobRef(digest, self._blobs.path(digest).stat().st_size))

    def _look_into(self, version: int, digest: str) -> None:
        """Find out what a delta replaces. Of one that is damaged nobody can know, and who asks for it is told so."""
        if self._codec.replaced is None or version in self._replaced:
            return
        with contextlib.suppress(RemoteProtocolError):
            self._replaced[version] = self._codec.replaced(self._blobs.read(digest))
        self._replaced.pop(version - MAX_BASES, None)


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
