"""Parts of messages that several of them have: blobs, deltas, clients, updates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, MAX_BASES, ClientId, Count, Digest


@dataclass(frozen=True, config=CLOSED)
class BlobRef:
    """A blob by its SHA-256 and size in bytes."""

    digest: Digest
    nbytes: Count


@dataclass(frozen=True, config=CLOSED)
class DeltaRef:
    """What makes an adapter of an older one: an encoded delta, and the digests of what it applies to, newest first."""

    bases: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_BASES)]
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
