"""What a round's files weigh: made by the codecs and the rule of the run, of tensors of its shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.local_methods import CONTROL
from fedmq.codec import raw
from fedmq.codec.base_link import BaseLink
from fedmq.protocol.records import BlobRef
from fedmq.runtime.aggregation import NOTHING, fold, step
from fedmq.runtime.downloads import publish
from fedmq.runtime.server import FederatedServer

#: Rules that turn factors in turns have their turns in two rounds.
_ROUNDS = (1, 2)


class Sizes(NamedTuple):
    """In bytes, and the seconds of one aggregation.

    Attributes:
      up: by client, an update, the mean over the rounds' turns.
      down_first: what a worker loads in round 1.
      down_later: in a later round, holding what there was before.
      down_scored: what whoever scores a later version loads beside: 0 where trainings start from the adapter itself.
      aggregate_s: fold, step and publication.
    """

    up: dict[str, int]
    down_first: int
    down_later: int
    down_scored: int
    aggregate_s: float


def measure_sizes(
    server: FederatedServer, adapter: bytes, update: bytes, client: str, clients: Sequence[str], cohort: int
) -> Sizes:
    """Encode and fold a made-up round.

    Args:
      server: of the run: its rule and its codecs.
      adapter: the first one, as it travels.
      update: of a short training of `client` in round 1.
      client: whose it is.
      clients: all.
      cohort: updates that make a round.
    """
    base = raw.decode(adapter, raw.read_spec(adapter))
    local = server.uploads.of(client, 1).decode(update, server.uploads.start(client, 1, base))
    # A later round moves the factor that the first has left, too.
    noise = np.random.default_rng(0)
    moved = {
        name: (value + 1e-4 * noise.standard_normal(value.shape)).astype(np.float32) for name, value in local.items()
    }
    up = {name: _mean([_encoded(server, name, round, moved, base) for round in _ROUNDS]) for name in clients}
    started = time.monotonic()
    delta = tensors.subtract(moved, base)
    updates = ((Update(f"client_{k}", 0, 1, 1, _drifted(delta, k), 1), 1.0) for k in range(cohort))
    mean = fold(server.aggregator, base, updates, 1, {})
    stepped, _ = step(server.server_optimizer, base, mean.delta, NOTHING.optimizer, 1)
    new = publish(server.download, stepped, base, {}, 1)
    seconds = time.monotonic() - started
    whole = len(raw.encode(new.adapter))
    later = whole if new.delta is None else min(whole, len(new.delta))
    told = server.aggregator.told and mean.left
    if told:
        later = len(raw.encode({**new.adapter, **{f"{CONTROL}{name}": value for name, value in new.adapter.items()}}))
    if mean.merged:
        later += len(BaseLink(mean.merged, BlobRef("0" * 64, 10**6)).encoded())
    return Sizes(up, len(adapter), later, whole if told else 0, seconds)


def _drifted(delta: tensors.NamedTensors, k: int) -> tensors.NamedTensors:
    """Of another client: alike ones would leave a rule for LoRA factors nothing that is lost."""
    noise = np.random.default_rng(k)
    return {name: value + value.std() * noise.standard_normal(value.shape) for name, value in delta.items()}


def _encoded(
    server: FederatedServer, client: str, round: int, local: tensors.NamedTensors, base: tensors.NamedTensors
) -> int:
    codec, start = server.uploads.of(client, round), server.uploads.start(client, round, base)
    content, _ = codec.encode(server.uploads.start(client, round, local), start, codec.init(start))
    return len(content)


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))
