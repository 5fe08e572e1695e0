"""What was merged into the base, link after link: which of them a worker has, and in which order they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

    def _back(self, link: BlobRef | None) -> Iterator[BlobRef]:
        while link is not None:
            yield link
            if link.digest not in self._before:
                self._before[link.digest] = BaseLink.decoded(self._blobs.read(link.digest)).before
            link = self._before[link.digest]


class Chain:
    """The order of links in a folder; each file is read once for it."""

    def __init__(self) -> None:
        self._before: dict[Path, Path | None] = {}

    def up_to(self, newest: str | None) -> list[str]:
        """The files of this link and all that lead to it, oldest first.

        Args:
          newest: file; the others are beside it, under their digests. None: there are none.
        """
        found: list[str] = []
        path = None if newest is None else Path(newest)
        while path is not None:
            found.append(str(path))
            if path not in self._before:
                before = BaseLink.decoded(path.read_bytes()).before
                self._before[path] = None if before is None else path.with_name(before.digest)
            path = self._before[path]
        return found[::-1]
