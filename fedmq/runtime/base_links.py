"""A worker's copies of what was merged into the base, link after link."""

from __future__ import annotations

from collections.abc import Iterator

from fedmq.codec.base_link import BaseLink
from fedmq.protocol.messages import BlobRef
from fedmq.runtime.held_adapters import HeldAdapters
from fedmq.storage.blobs import BlobStore


class BaseLinks:
    """The links among a worker's blobs. They are kept as long as the worker's folder: every later version needs them.

    Args:
      blobs: of the worker; a cache.
      held: of its adapters, which says what is whole.
    """

    def __init__(self, blobs: BlobStore, held: HeldAdapters) -> None:
        self._blobs, self._held = blobs, held
        #: link -> the one that it follows
        self._before: dict[str, BlobRef | None] = {}

    def missing(self, newest: BlobRef | None) -> BlobRef | None:
        """The newest link, of those that lead to this one, that is not here; None when all are."""
        return next((link for link in self._back(newest) if not self._held.holds(link.digest)), None)

    def paths(self, newest: BlobRef | None) -> tuple[str, ...]:
        """The files of all of them, oldest first; none may be missing."""
        return tuple(str(self._blobs.path(link.digest)) for link in self._back(newest))[::-1]

    def _back(self, link: BlobRef | None) -> Iterator[BlobRef]:
        while link is not None:
            yield link
            if link.digest not in self._before:
                self._before[link.digest] = BaseLink.decoded(self._blobs.read(link.digest)).before
            link = self._before[link.digest]
