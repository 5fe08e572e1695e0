"""What averaging the LoRA factors of a round loses of its mean update: measured of every round, whatever the method."""

from __future__ import annotations

from collections.abc import Sequence

from fedmq.algorithms.lora_core import folded
from fedmq.algorithms.lora_factors import factors, pairs, relative_bias
from fedmq.errors import RemoteProtocolError
from fedmq.runtime.one_thread import one_blas_thread
from fedmq.runtime.selection import Weighting, weigher
from fedmq.runtime.updates import Row, Updates
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors

#: The measurement holds so many adapters and so many bytes at most; of larger rounds it takes evenly spaced clients.
MAX_CLIENTS = 16
MAX_NBYTES = 1 << 28


def record_bias(journal: Journal, blobs: BlobStore, updates: Updates, weighting: Weighting, round: int) -> None:
    """Put a committed round's bias, |sum p_k B_k A_k - B' A'| / |sum p_k B_k A_k| over all modules, into the journal.

    It takes a tenth of a second for ten clients of GPT-2 small (rank 8), so it is done while the next round trains.
    Nothing is done where it is there already, where the adapter has no factors, and where files are deleted or damaged.
    """
    rows = journal.folded(round)
    if journal.bias(round) is not None or not rows or not all(blobs.has(row["digest"]) for row in rows):
        return
    try:
        adapters = _adapters(updates, rows, round)
    except RemoteProtocolError:
        return  # a file has rotted: the model is committed without it, and only this figure is missing
    if not adapters:
        return
    weigh = weigher(journal, weighting, round)
    weighted = [(weigh(row), adapter) for row, adapter in adapters]
    if modules := pairs(adapters[0][1]):
        with one_blas_thread():
            bias = relative_bias(factors(weighted, pair) for pair in modules)
        journal.set_bias(round, bias)


def _adapters(updates: Updates, rows: Sequence[Row], round: int) -> list[tuple[Row, NamedTensors]]:
    """Updates and their adapters, as many as may be held; none where the adapter before is deleted, or has no pairs."""
    before = updates.version(round - 1)
    if before is None or not pairs(before):
        return []
    nbytes = sum(value.nbytes for value in before.values())
    count = min(len(rows), MAX_CLIENTS, max(2, MAX_NBYTES // nbytes))
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    return [(row, folded(updates.as_folded(row, before))) for row in chosen]
