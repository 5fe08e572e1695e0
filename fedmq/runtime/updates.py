"""A round's updates, from their blobs: what each client made of the version that its training began from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmq import tensors
from fedmq.algorithms.staleness import Discount
from fedmq.codec import raw
from fedmq.runtime.uploads import Uploads
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors

#: an update as the journal has it
Row = Mapping[str, Any]


class Updates:
    """Reads updates that were accepted.

    Args:
      journal, blobs: of the run.
      uploads: how they came.
      discount: of updates that were trained from an older version than that of their round.
    """

    def __init__(self, journal: Journal, blobs: BlobStore, uploads: Uploads, discount: Discount) -> None:
        self._journal, self._blobs, self._uploads, self._discount = journal, blobs, uploads, discount

    def version(self, version: int) -> NamedTensors | None:
        """A committed adapter; None when its blob is deleted."""
        digest = self._journal.digest(version)
        if not self._blobs.has(digest):
            return None
        content = self._blobs.read(digest)
        return raw.decode(content, raw.read_spec(content))

    def base(self, row: Row) -> NamedTensors | None:
        """The adapter that an update was trained from; None when its blob is deleted."""
        return self.version(row["started"] - 1)

    def adapter(self, row: Row, base: NamedTensors) -> NamedTensors:
        """What a client made of `base`, as it came, float32. RemoteProtocolError: its file is damaged."""
        return self._uploads.of(row["client"], row["started"]).decode(self._blobs.read(row["digest"]), base)

    def whole(self, row: Row) -> bool:
        """Whether an update's blob is the file of the client's adapter."""
        return self._uploads.of(row["client"], row["started"]).whole

    def discounted(self, row: Row, delta: NamedTensors) -> NamedTensors:
        """What an update adds: itself, or less if it began before its round; `delta`, float64, may be overwritten."""
        if row["started"] == row["round"]:
            return delta
        factor = self._discount(row["round"] - row["started"])
        return {name: np.multiply(value, factor, out=value) for name, value in delta.items()}

    def as_folded(self, row: Row, before: NamedTensors) -> NamedTensors:
        """`before`, the adapter that its round began with, moved by what an update adds. Its base must be there."""
        if row["started"] == row["round"]:
            return self.adapter(row, before)
        base = self.base(row)
        assert base is not None
        return tensors.add(before, self.discounted(row, tensors.subtract(self.adapter(row, base), base)))
