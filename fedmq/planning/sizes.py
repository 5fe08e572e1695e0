"""What a round's files weigh: made by the codecs and the rule of the run, of tensors of its shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.local_methods import CONTROL
from fedmq.algorithms.lora_core import is_of
from fedmq.codec import raw
from fedmq.codec.base_link import BaseLink
from fedmq.protocol.records import BlobRef
from fedmq.recipe import Factors
from fedmq.runtime.aggregation import NOTHING, fold, rebased, step
from fedmq.runtime.downloads import publish
from fedmq.runtime.server import FederatedServer

#: Rounds that are made up: rules that take factors in turns have had each by then, and begin again with the third.
_TURNS = 4


class Sizes(NamedTuple):
    """In bytes, and the seconds of one aggregation.

    Attributes:
      up: by round (see `turn`), by client, an update.
      down_first: what a worker loads in round 1.
      down_after: by round, what a worker loads after it that holds what there was before.
      down_scored: what whoever scores a later version loads beside: 0 where trainings start from the adapter itself.
      aggregate_s: fold, step and publication.
    """

    up: dict[int, dict[str, int]]
    down_first: int
    down_after: dict[int, int]
    down_scored: int
    aggregate_s: float


def turn(round: int) -> int:
    """The round that was made up for this one.

    Example:
      >>> [turn(round) for round in range(1, 8)]
      [1, 2, 3, 4, 3, 4, 3]
    """
    return round if round <= _TURNS else _TURNS - 1 + (round - _TURNS - 1) % 2


def measure_sizes(
    server: FederatedServer, adapter: bytes, update: bytes, client: str, clients: Sequence[str], cohort: int
) -> Sizes:
    """Encode and fold made-up rounds.

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
    turns = range(1, _TURNS + 1)
    up = {round: {name: _encoded(server, name, round, moved, base) for name in clients} for round in turns}
    started, delta, after, scored = time.monotonic(), tensors.subtract(moved, base), {}, 0
    for round in turns:
        factors = server.aggregator.trained(round)
        updates = ((Update(f"client_{k}", round - 1, 1, 1, _drifted(delta, k, factors), 1), 1.0) for k in range(cohort))
        mean = fold(server.aggregator, base, updates, round, {})
        led = step(server.server_optimizer, base, mean.delta, NOTHING.optimizer, round)
        stepped, _ = rebased(server.aggregator, round, *led)
        new = publish(server.download, stepped, base, {}, round)
        whole = len(raw.encode(new.adapter))
        after[round] = whole if new.delta is None else min(whole, len(new.delta))
        if server.aggregator.told and mean.left:
            told = {f"{CONTROL}{name}": value for name, value in new.adapter.items()}
            after[round], scored = len(raw.encode({**new.adapter, **told})), whole
        if mean.merged:
            after[round] += len(BaseLink(mean.merged, BlobRef("0" * 64, 10**6)).encoded())
    return Sizes(up, len(adapter), after, scored, (time.monotonic() - started) / _TURNS)


def _drifted(delta: tensors.NamedTensors, k: int, factors: Factors) -> tensors.NamedTensors:
    """Of another client: alike ones would leave a rule for LoRA factors nothing that is lost."""
    noise, found = np.random.default_rng(k), {}
    for name, value in delta.items():
        drifted = value + value.std() * noise.standard_normal(value.shape)
        found[name] = drifted if is_of(name, factors) else np.zeros_like(value)
    return found


def _encoded(
    server: FederatedServer, client: str, round: int, local: tensors.NamedTensors, base: tensors.NamedTensors
) -> int:
    codec, start = server.uploads.of(client, round), server.uploads.start(client, round, base)
    content, _ = codec.encode(server.uploads.start(client, round, local), start, codec.init(start))
    return len(content)
