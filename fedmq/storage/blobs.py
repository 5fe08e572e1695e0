"""Immutable files named by their SHA-256, and partial ones that grow from offset 0."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from fedmq import atomic
from fedmq.errors import RemoteProtocolError, StorageError


class BlobStore:
    """A folder of blobs. Names are built from checked hex digests only, never from what a peer calls a thing.

    Args:
      folder: made if it is missing.
      durable: whether a blob survives a power cut once it is here. A cache needs no such promise:
        `read` checks what it finds.
    """

    def __init__(self, folder: Path, durable: bool = True) -> None:
        self.folder, self.durable = folder, durable
        #: digests whose content was seen to be right in this process
        self.checked: set[str] = set()
        if durable:
            atomic.make_folder(folder)
            # A process that was killed may have named a blob, and not lived to make that name durable.
            atomic.fsync(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"not a SHA-256 in hex: {digest!r:.80}")
        return self.folder / digest

    def has(self, digest: str) -> bool:
        """Whether the whole blob is here."""
        return self.path(digest).is_file()

    def nbytes(self, digest: str) -> int:
        """How long the blob is.

        Raises:
          StorageError: it is gone, and somebody relies on it.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._gone(digest) from None

    def _gone(self, digest: str) -> StorageError:
        return StorageError(
            f"{self.path(digest)} is gone: without it, its run cannot go on; put it back from a copy of this folder"
        )

    def read(self, digest: str) -> bytes:
        """The blob's bytes, checked once a process: a file that rotted on disk is not handed out.

        Raises:
          RemoteProtocolError: BLOB, the content is not what its name says.
          StorageError: it is gone.
        """
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise self._gone(digest) from None
        if digest not in self.checked and hashlib.sha256(content).hexdigest() != digest:
            raise RemoteProtocolError("BLOB", f"{self.path(digest)} does not have the content that its name says")
        self.checked.add(digest)
        return content

    def add(self, content: bytes) -> str:
        """Store bytes durably; returns their digest."""
        # The digest is needed for the name only: it is computed while the disk works.
        temp = self.folder / f".{os.getpid()}.tmp"
        with ThreadPoolExecutor(1) as disk:
            written = disk.submit(_write_durably, temp, content)
            digest = hashlib.sha256(content).hexdigest()
            written.result()
        atomic.rename(temp, self.path(digest))
        atomic.fsync(self.folder)
        self.checked.add(digest)
        return digest

    def remove(self, digest: str) -> None:
        """Delete the blob if it is here."""
        self.path(digest).unlink(missing_ok=True)
        self.checked.discard(digest)

    def partial(self, digest: str, total: int, sender: str = "") -> PartialBlob:
        """Begin, or go on with, a blob of `total` bytes. What one sender sends is kept apart from what others do."""
        return PartialBlob(self, digest, total, sender)

    def discard_partials(self, keep: Collection[Path]) -> None:
        """Delete what has arrived of every blob whose `PartialBlob.path` is not kept."""
        for path in self.folder.glob("*.part"):
            if path not in keep:
                path.unlink()


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        atomic.sync(file.fileno())


class PartialBlob:
    """A blob on its way in: appended in order, checked as a whole, then renamed into place."""

    def __init__(self, store: BlobStore, digest: str, total: int, sender: str) -> None:
        self._store, self._digest, self.total = store, digest, total
        # Not the sender's name, which is a peer's word.
        tag = hashlib.sha256(sender.encode()).hexdigest()[:16]
        self.path = store.path(digest).with_name(f"{digest}.{tag}.part")
        self._file: BinaryIO = open(self.path, "ab")  # noqa: SIM115 - closed by finish or close
        self._hash = hashlib.sha256()
        self.offset = self._file.tell()
        if self.offset > total:
            self._file.truncate(0)
            self.offset = 0
        elif self.offset:
            self._hash.update(self.path.read_bytes())

    def append(self, offset: int, content: bytes | memoryview) -> bool:
        """Take the next piece; False when it is not the next one, and nothing is changed."""
        if offset != self.offset or offset + len(content) > self.total:
            return False
        self._file.write(content)
        self._hash.update(content)
        self.offset += len(content)
        return True

    def finish(self) -> None:
        """Put the complete blob under its name.

        Raises:
          RemoteProtocolError: BLOB, the bytes are not what the digest says; they are thrown away.
        """
        self._file.flush()
        if self._store.durable:
            atomic.sync(self._file.fileno())
        self._file.close()
        if self._hash.hexdigest() != self._digest:
            self.path.unlink()
            raise RemoteProtocolError("BLOB", "the bytes do not have the digest they were announced with")
        atomic.rename(self.path, self._store.path(self._digest))
        if self._store.durable:
            atomic.fsync(self._store.folder)
        self._store.checked.add(self._digest)

    def discard(self) -> None:
        """Stop for good; what has arrived is thrown away."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop for now; what has arrived is kept for the next try."""
        self._file.close()
