"""Which updates are of this run: their tensors, what is claimed of them, how far they lead."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.messages import Offer
from fedmq.tensors import NamedTensors


class UpdateLimits(NamedTuple):
    """What no update of a run exceeds.

    Attributes:
      max_norm: L2 norm of delta = local - global, over all tensors; None = any.
      max_tokens_per_example: targets that one text gives in one training: max_length x num_epochs.
      num_steps: examples of a client -> optimiser steps of a training; None where nothing depends on these.
      empty: clients share nothing, so that adapters and updates hold no tensor.
    """

    max_norm: float | None
    max_tokens_per_example: int
    num_steps: Callable[[int], int] | None = None
    empty: bool = False


class Screened(NamedTuple):
    """An update that may count.

    Attributes:
      adapter: what the client made of its base, float32.
      norm: L2 norm of the difference.
      remark: for people, or None.
    """

    adapter: NamedTensors
    norm: float
    remark: str | None


def screen(
    offer: Offer,
    content: bytes,
    params: NamedTensors,
    announced: int,
    limits: UpdateLimits,
    decode: Callable[[bytes, NamedTensors], NamedTensors],
) -> Screened:
    """Refuse an update that is not one of this run, cheap checks first.

    Args:
      offer: what the worker says of it.
      content: the update's bytes.
      params: the adapter that it started from.
      announced: examples that the client had when it joined.
      limits: of the run.
      decode: of the client's `UpdateCodec`.

    Raises:
      RemoteProtocolError: EMPTY, EXAMPLES, TOKENS, SAFETENSORS, CODEC, SCHEMA, NONFINITE or NORM.
    """
    if offer.num_examples < 1 or offer.num_tokens < 1:
        raise RemoteProtocolError("EMPTY", "an update without examples or targets")
    if offer.num_examples > announced:
        raise RemoteProtocolError("EXAMPLES", f"{offer.num_examples} examples of a client that announced {announced}")
    most = offer.num_examples * limits.max_tokens_per_example
    if offer.num_tokens > most:
        raise RemoteProtocolError("TOKENS", f"{offer.num_tokens} targets; {offer.num_examples} examples have {most}")
    if limits.num_steps is not None and offer.num_steps != (steps := limits.num_steps(announced)):
        raise RemoteProtocolError("EXAMPLES", f"{offer.num_steps} steps; {announced} examples make {steps}")
    update = decode(content, params)
    norm = _distance(update, params)
    if limits.max_norm is not None and norm > limits.max_norm:
        raise RemoteProtocolError("NORM", f"the update's norm is {norm:.6g}, at most {limits.max_norm:g} is allowed")
    remarks = [] if norm or limits.empty else ["the update is zero, the adapter came back as it went"]
    if offer.state_lost:
        remarks.append("what the client remembered of its last update is not there, it began anew")
    return Screened(update, norm, f"{offer.task}: {'; '.join(remarks)}" if remarks else None)


def screen_first(offer: Offer, content: bytes, empty: bool = False) -> str:
    """Refuse a first adapter that is none. Returns its adapter_config.json, in our own hand.

    Args:
      offer, content: as of `screen`.
      empty: whether it holds no tensor.

    Raises:
      RemoteProtocolError: it is not a finite float32 adapter with a JSON object as its config.
    """
    spec = raw.read_spec(content)
    raw.decode(content, spec)
    if bool(spec) == empty or any(dtype != "float32" for dtype, _ in spec.values()):
        raise RemoteProtocolError("SCHEMA", "the first adapter is not float32, or empty, or should be")
    try:
        config = json.loads(offer.adapter_config)
        if isinstance(config, dict):
            # Written anew: marks of direction and duplicate names of a peer's JSON stay outside.
            return json.dumps(config, indent=2, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    raise RemoteProtocolError("SCHEMA", "adapter_config is not a JSON object")


def _distance(a: NamedTensors, b: NamedTensors) -> float:
    """L2 norm of a - b in float64, one tensor at a time."""
    total = 0.0
    for name in a:
        delta = np.subtract(a[name], b[name], dtype=np.float64).ravel()
        total += float(np.dot(delta, delta))
    return math.sqrt(total)
