"""A worker's copies of the global adapter: the one in hand and the one before, and how one is made of the other."""

from __future__ import annotations

from fedmq.codec import raw
from fedmq.codec.download import DownloadCodec
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.messages import BlobRef, DeltaRef
from fedmq.storage.blobs import BlobStore

#: The one in hand and the one before.
_KEPT = 2


class HeldAdapters:
    """What of a store of blobs is whole adapters.

    Args:
      blobs: of the worker; a cache.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        #: digests, the newest last
        self._recent: list[str] = []

    def holds(self, digest: str) -> bool:
        """Whether an adapter is here, and has the content that its name says; one that has not is deleted."""
        if not self._blobs.has(digest):
            return False
        try:
            if digest not in self._blobs.checked:
                self._blobs.read(digest)
        except RemoteProtocolError:
            self._blobs.remove(digest)
            return False
        return True

    def used(self, digest: str) -> None:
        """It is in hand; the oldest are deleted."""
        self._recent = [*(held for held in self._recent if held != digest), digest]
        for old in self._recent[:-_KEPT]:
            self._blobs.remove(old)
        self._recent = self._recent[-_KEPT:]

    def base_of(self, delta: DeltaRef) -> str | None:
        """The newest of the adapters that a delta applies to and that are here: it is in hand, so that it stays."""
        found = next(filter(self.holds, delta.bases), None)
        if found is not None:
            self.used(found)
        return found

    def rebuild(self, adapter: BlobRef, delta: DeltaRef, codec: DownloadCodec) -> None:
        """Make an adapter of an older one and a delta, to the bit of the coordinator's file; the delta is deleted.

        Raises:
          RemoteProtocolError: what comes of it is not the adapter, or nothing does.
        """
        try:
            base = self.base_of(delta) or delta.bases[0]
            content, before = self._blobs.read(delta.blob.digest), self._blobs.read(base)
        finally:
            self._blobs.remove(delta.blob.digest)
        made = raw.encode(codec.decode(content, raw.decode(before, raw.read_spec(before))))
        part = self._blobs.partial(adapter.digest, len(made), "rebuilt")
        part.append(part.offset, made[part.offset :])
        part.finish()
