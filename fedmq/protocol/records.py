"""Parts of messages that several of them have: blobs, deltas, clients, updates."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, ClientId, Count, Digest


@dataclass(frozen=True, config=CLOSED)
class BlobRef:
    """A blob by its SHA-256 and size in bytes."""

    digest: Digest
    nbytes: Count


@dataclass(frozen=True, config=CLOSED)
class DeltaRef:
    """What makes an adapter of the one before it: an encoded delta, and the digest of what that applies to."""

    base: Digest
    blob: BlobRef


@dataclass(frozen=True, config=CLOSED)
class Folded:
    """The update of a client that was folded into a committed round, by the digest of its blob."""

    round: Count
    digest: Digest


@dataclass(frozen=True, config=CLOSED)
class HostedClient:
    """A client that a worker can train. `data_digest` tells two shards of one name apart.

    `num_held_out` > 0 when the owner holds out a test split of its own.
    """

    client: ClientId
    num_examples: Count
    num_tokens: Count
    num_held_out: Count
    data_digest: Digest
