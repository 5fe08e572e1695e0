"""What averaging the LoRA factors of a round loses of its mean update: measured of every round, whatever the method."""

from __future__ import annotations

from typing import Any

from fedmq.algorithms.lora_factors import factors, pairs, relative_bias
from fedmq.codec.update import UpdateCodec
from fedmq.errors import RemoteProtocolError
from fedmq.runtime.client_adapters import adapter_before
from fedmq.runtime.selection import Weighting, weigher
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.tensors import NamedTensors

#: The measurement holds so many adapters and so many bytes at most; of larger rounds it takes evenly spaced clients.
MAX_CLIENTS = 16
MAX_NBYTES = 1 << 28


def record_bias(journal: Journal, blobs: BlobStore, codec: UpdateCodec, weighting: Weighting, round: int) -> None:
    """Put a committed round's bias, |sum p_k B_k A_k - B' A'| / |sum p_k B_k A_k| over all modules, into the journal.

    It takes a tenth of a second for ten clients of GPT-2 small (rank 8), so it is done while the next round trains.
    Nothing is done where it is there already, where the adapter has no factors, and where files are deleted or damaged.
    """
    updates = journal.folded(round)
    if journal.bias(round) is not None or not updates or not all(blobs.has(update["digest"]) for update in updates):
        return
    try:
        adapters = _adapters(journal, blobs, codec, updates, round)
    except RemoteProtocolError:
        return  # a file has rotted: the model is committed without it, and only this figure is missing
    if not adapters:
        return
    weigh = weigher(journal, weighting, round)
    weighted = [(weigh(update), adapter) for update, adapter in adapters]
    if modules := pairs(adapters[0][1]):
        journal.set_bias(round, relative_bias(factors(weighted, pair) for pair in modules))


def _adapters(
    journal: Journal, blobs: BlobStore, codec: UpdateCodec, updates: list[dict[str, Any]], round: int
) -> list[tuple[dict[str, Any], NamedTensors]]:
    """Updates and their adapters, as many as may be held; none where the adapter before them is deleted."""
    base = adapter_before(journal, blobs, round)
    if base is None:
        return []
    nbytes = sum(value.nbytes for value in base.values())
    count = min(len(updates), MAX_CLIENTS, max(2, MAX_NBYTES // nbytes))
    chosen = [updates[i * len(updates) // count] for i in range(count)]
    return [(update, codec.decode(blobs.read(update["digest"]), base)) for update in chosen]
