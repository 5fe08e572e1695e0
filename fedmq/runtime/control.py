"""The file that a training starts from: the adapter, with what its round's clients are told beside it."""

from __future__ import annotations

from fedmq.algorithms.local_methods import CONTROL
from fedmq.codec import raw
from fedmq.protocol.messages import BlobRef
from fedmq.runtime.aggregation import Remembered
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors, spec


class TrainingFiles:
    """The coordinator's: made anew by whoever needs one, always of the same bytes.

    Args:
      journal, blobs: of the run.
      told: `Aggregator.told` of its rule; else the file is the adapter's.
    """

    def __init__(self, journal: Journal, blobs: BlobStore, told: bool) -> None:
        self._journal, self._blobs, self._told = journal, blobs, told
        self._made: tuple[int, BlobRef] | None = None

    def of(self, version: int) -> BlobRef:
        """What trainings from a committed version start from."""
        if self._made is not None and self._made[0] == version:
            return self._made[1]
        digest = self._journal.digest(version)
        memory = self._journal.optimizer(version) if self._told else None
        left = {} if memory is None else Remembered.decoded(self._blobs.read(memory)).aggregate
        if left:
            content = self._blobs.read(digest)
            adapter = raw.decode(content, raw.read_spec(content))
            digest = self._blobs.add(raw.encode({**adapter, **{f"{CONTROL}{name}": c for name, c in left.items()}}))
        blob = BlobRef(digest, self._blobs.nbytes(digest))
        if left:
            self._made = (version, blob)
        return blob

    def in_use(self) -> set[str]:
        """Blobs that somebody may be fetching."""
        return set() if self._made is None else {self._made[1].digest}


def parted(content: bytes, like: NamedTensors) -> tuple[NamedTensors, NamedTensors]:
    """The adapter in such a file, of the names and shapes of `like`, and the rest, under its names there.

    Raises:
      RemoteProtocolError: it is neither the file of an adapter nor one with what clients are told.
    """
    expected = spec(like)
    if any(name.startswith(CONTROL) for name in raw.read_spec(content)):
        expected |= {f"{CONTROL}{name}": kind for name, kind in spec(like).items()}
    found = raw.decode(content, expected)
    return {name: found[name] for name in like}, {name: found[name] for name in found if name not in like}
