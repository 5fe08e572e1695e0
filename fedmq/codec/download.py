"""How the global adapter travels to who holds the version before it: as its delta, made once for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedmq import tensors
from fedmq.codec import raw
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
      publish: (adapter that the server stepped to, float32; adapter before; residual after the version before, {} at
        first) -> Published.
        RemoteProtocolError, code NONFINITE: the delta leads beyond float32.
      decode: (delta, from anyone; adapter before) -> `Published.adapter`, to the bit.
        RemoteProtocolError, and nothing else, on what is none.
      replaced: delta -> names of the tensors that `decode` takes from it alone, whatever they were; so it leads from
        any adapter that has the other ones as the one before has them. None: it leads from that one only.
    """

    publish: Callable[[NamedTensors, NamedTensors, NamedTensors], Published]
    decode: Callable[[bytes, NamedTensors], NamedTensors]
    replaced: Callable[[bytes], frozenset[str]] | None = None


def download_codec(spec: CodecSpec) -> DownloadCodec:
    """How the global adapter travels under `federated.download_codec` and its options.

    Under "fp32" the step's own bits are the model. Where it has left some tensors as they were, to the bit, the delta
    is the file of the others; where it moved all or none there is no delta, and nothing is remembered.

    Under the others, with y_r what the server's step led to: d = y_r + e_(r-1) - x_(r-1); send C(d);
    x_r = float32(x_(r-1) + C(d)), e_r = y_r + e_(r-1) - x_r, from e_0 = 0. So sum(x_r - x_(r-1)) + e_n = sum(y_r -
    x_(r-1)), whatever C loses.
    What was sent is the model: who decodes it has the coordinator's bits, and who downloads the whole file as well. A
    tensor that the step has not moved at all (its factor was frozen) stays as it is, and its e waits.

    e stays at the coordinator and costs no byte on the way, so there is one unless `error_feedback` is false.

    Args:
      spec: the codec and its options.

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
    if spec.name == "fp32":
        return DownloadCodec(_those_that_moved, _put_into, lambda delta: frozenset(raw.read_spec(delta)))
    updates = update_codec(replace(spec, error_feedback=False))
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

    return DownloadCodec(publish, updates.decode)


def _those_that_moved(stepped: NamedTensors, before: NamedTensors, residual: NamedTensors) -> Published:
    # By their bytes: 0 and -0 are equal, and not the same file.
    moved = {name: value for name, value in stepped.items() if value.tobytes() != before[name].tobytes()}
    return Published(stepped, raw.encode(moved) if 0 < len(moved) < len(stepped) else None, {})


def _put_into(delta: bytes, before: NamedTensors) -> NamedTensors:
    known, named = tensors.spec(before), raw.read_spec(delta)
    return {**before, **raw.decode(delta, {name: known[name] for name in named if name in known})}
