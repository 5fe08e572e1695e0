"""How a client's update travels: as its whole adapter, or as its delta in a codec. And every codec by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.codec import raw
from fedmq.codec.blocks import int4, int8
from fedmq.codec.delta import Codec
from fedmq.codec.floats import bf16, fp16, fp32
from fedmq.codec.sign import sign
from fedmq.codec.topk import topk
from fedmq.errors import RemoteProtocolError
from fedmq.recipe import CodecSpec
from fedmq.tensors import NamedTensors

BY_NAME: Mapping[str, Callable[..., Codec]] = {
    "fp32": fp32,
    "bf16": bf16,
    "fp16": fp16,
    "int8": int8,
    "int4": int4,
    "sign": sign,
    "topk": topk,
}


class UpdateCodec(NamedTuple):
    """A trained adapter to bytes and back, both ends knowing the adapter that it was trained from.

    Attributes:
      whole: whether the bytes are the file of the adapter that counts.
      init: base adapter -> state before the client's first update; {} where nothing is remembered.
      encode: (trained adapter, base adapter, state) -> (bytes, state).
      decode: (bytes, from anyone; base adapter) -> the adapter that counts, float32: the trained one,
        less what was lost.
        RemoteProtocolError, and nothing else, on what is none.
    """

    whole: bool
    init: Callable[[NamedTensors], NamedTensors]
    encode: Callable[[NamedTensors, NamedTensors, NamedTensors], tuple[bytes, NamedTensors]]
    decode: Callable[[bytes, NamedTensors], NamedTensors]


def update_codec(spec: CodecSpec) -> UpdateCodec:
    """How updates travel under `federated.upload_codec` and its options.

    "fp32" is the adapter's own file, not a float32 delta: it is as long, loses nothing at all (a delta is exact in
    float64 only), and is at once what is kept of the client.

    Example:
      >>> codec = update_codec(CodecSpec("sign", block=None, fraction=None, error_feedback=False))
      >>> base, local = ({"w": np.array(values, np.float32)} for values in ([1, 1], [1.5, 0.5]))
      >>> content, _ = codec.encode(local, base, {})
      >>> codec.decode(content, base)["w"]
      array([1.5, 0.5], dtype=float32)
    """
    if spec.name == "fp32":
        return _whole()
    options = {name: value for name, value in asdict(spec).items() if name != "name" and value is not None}
    return _as_delta(BY_NAME[spec.name](**options))


def _whole() -> UpdateCodec:
    def encode(local: NamedTensors, base: NamedTensors, state: NamedTensors) -> tuple[bytes, NamedTensors]:
        return raw.encode(local), {}

    return UpdateCodec(True, lambda base: {}, encode, lambda content, base: raw.decode(content, tensors.spec(base)))


def _as_delta(codec: Codec) -> UpdateCodec:
    def encode(local: NamedTensors, base: NamedTensors, state: NamedTensors) -> tuple[bytes, NamedTensors]:
        return codec.encode(tensors.subtract(local, base), state)

    def decode(content: bytes, base: NamedTensors) -> NamedTensors:
        delta, adapter = codec.decode(content, tensors.spec(base)), tensors.empty_like(base, np.float32)
        with np.errstate(over="ignore"):  # said below
            # One tensor at a time: in float64 all of them would be twice the adapter.
            for name in adapter:
                adapter[name] = np.add(base[name], delta[name], dtype=np.float64)
        for name, value in adapter.items():
            if not np.isfinite(value).all():
                raise RemoteProtocolError("NONFINITE", f"tensor {name!r} leads beyond float32")
        return adapter

    return UpdateCodec(False, codec.init, encode, decode)
