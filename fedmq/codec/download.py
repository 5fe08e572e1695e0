"""How the global adapter travels to who holds the version before it: as its delta, encoded once for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.codec.update import update_codec
from fedmq.recipe import CodecSpec
from fedmq.tensors import NamedTensors


class Published(NamedTuple):
    """A new version of the global adapter.

    Attributes:
      adapter: what it is, for everybody; float32.
      delta: what makes it of the version before; None where only the whole file does.
      residual: what it is short of, to be added to the next one; {} where nothing is remembered.
    """

    adapter: NamedTensors
    delta: bytes | None
    residual: NamedTensors


class DownloadCodec(NamedTuple):
    """The next global adapter to bytes and back, both ends knowing the one before.

    Attributes:
      whole: whether there are no deltas.
      publish: (adapter that the server stepped to, float32; adapter before; residual after the version before, {} at
        first) -> Published.
        RemoteProtocolError, code NONFINITE: the delta leads beyond float32.
      decode: (delta, from anyone; adapter before) -> `Published.adapter`, to the bit.
        RemoteProtocolError, and nothing else, on what is none.
    """

    whole: bool
    publish: Callable[[NamedTensors, NamedTensors, NamedTensors], Published]
    decode: Callable[[bytes, NamedTensors], dict[str, np.ndarray]]


def download_codec(spec: CodecSpec) -> DownloadCodec:
    """How the global adapter travels under `federated.download_codec` and its options.

    With y_r what the server's step led to: d = y_r + e_(r-1) - x_(r-1); send C(d); x_r = float32(x_(r-1) + C(d)),
    e_r = y_r + e_(r-1) - x_r, from e_0 = 0. So sum(x_r - x_(r-1)) + e_n = sum(y_r - x_(r-1)), whatever C loses.
    What was sent is the model: who decodes it has the coordinator's bits, and who downloads the whole file as well. A
    tensor that the step has not moved at all (its factor was frozen) stays as it is, and its e waits.

    e stays at the coordinator and costs no byte on the way, so there is one unless `error_feedback` is false.

    Args:
      spec: "fp32" has no deltas and no residual.

    Example:
      >>> codec = download_codec(CodecSpec("sign", block=None, fraction=None, error_feedback=None))
      >>> before, stepped = ({"w": np.array(values, np.float32)} for values in ([1, 1], [2.0, 0.5]))
      >>> new = codec.publish(stepped, before, {})
      >>> new.adapter["w"], new.residual["w"]
      (array([1.75, 0.25], dtype=float32), array([0.25, 0.25], dtype=float32))
      >>> codec.decode(new.delta, before)["w"]
      array([1.75, 0.25], dtype=float32)

    Reference:
      Tang et al. 2019, DoubleSqueeze (arXiv 1905.05957), Algorithm 1, the server's pass.
    """
    updates = update_codec(replace(spec, error_feedback=None if spec.name == "fp32" else False))
    if updates.whole:
        return DownloadCodec(True, lambda stepped, before, residual: Published(stepped, None, {}), updates.decode)
    remembers = spec.error_feedback is not False

    def publish(stepped: NamedTensors, before: NamedTensors, residual: NamedTensors) -> Published:
        wanted = {name: value.astype(np.float64) for name, value in stepped.items()}
        moved = {name for name in stepped if not np.array_equal(stepped[name], before[name])}
        for name in moved & residual.keys():
            wanted[name] += residual[name]
        delta, _ = updates.encode(wanted, before, {})
        adapter = updates.decode(delta, before)
        if not remembers:
            return Published(adapter, delta, {})
        left = tensors.astype(tensors.subtract(wanted, adapter), np.float32)
        return Published(adapter, delta, left | {name: value for name, value in residual.items() if name not in moved})

    return DownloadCodec(False, publish, updates.decode)
