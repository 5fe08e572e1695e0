"""What a codec of deltas is, and what all of them share: the header, the checks, error feedback.

An encoded delta holds no names and no shapes: whoever decodes it knows the adapter. Its header is 8 bytes of magic
and the first 16 of a SHA-256 over the codec with its options and the adapter's names and shapes, so that nothing else
is taken for it, and every size is known before a byte of the payload is looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedmq.errors import LocalProtocolError, RemoteProtocolError
from fedmq.tensors import NamedTensors, Spec

_MAGIC = b"fedmq-d1"
_HEADER_NBYTES = len(_MAGIC) + 16
_LARGEST = float(np.finfo(np.float32).max)

#: (all values, float32 in one row; sizes of the tensors in it) -> payload
Pack = Callable[[np.ndarray, Sequence[int]], bytes]
#: (payload, from anyone; sizes) -> all values, float32 in one row. RemoteProtocolError when it is not such a payload
Unpack = Callable[[bytes, Sequence[int]], np.ndarray]


class Codec(NamedTuple):
    """A delta to bytes and back, as pure functions with explicit state.

    Attributes:
      init: named tensors of the adapter's shapes -> state before the first delta; {} where nothing is remembered.
      encode: (delta, finite, of any float dtype; state) -> (bytes, state). Equal arguments give equal bytes.
      decode: (bytes, from anyone; the adapter's spec, all float32) -> delta, float32, finite.
        RemoteProtocolError with code CODEC, SCHEMA or NONFINITE on anything else, and on nothing else.
    """

    init: Callable[[NamedTensors], NamedTensors]
    encode: Callable[[NamedTensors, NamedTensors], tuple[bytes, NamedTensors]]
    decode: Callable[[bytes, Spec], dict[str, np.ndarray]]


def make_codec(label: str, pack: Pack, unpack: Unpack, error_feedback: bool) -> Codec:
    """A codec from what is its own.

    With error feedback what a delta lost is added to the next one: e = delta + r; send C(e); r = e - C(e), from r = 0.
    Then sum(sent) + r = sum(deltas), whatever C loses.

    Args:
      label: name and options, which both ends must agree on.
      pack, unpack: payload of a delta, and back.
      error_feedback: whether there is a state, the residual r (float32, named as the delta's tensors).

    Reference:
      Karimireddy et al. 2019, Error Feedback Fixes SignSGD (arXiv 1901.09847), Algorithm 1.
    """
    if not isinstance(error_feedback, bool):
        raise ValueError(f"need error_feedback true or false, got {error_feedback!r}")

    def init(like: NamedTensors) -> NamedTensors:
        return {name: np.zeros(like[name].shape, np.float32) for name in sorted(like)} if error_feedback else {}

    def encode(delta: NamedTensors, state: NamedTensors) -> tuple[bytes, NamedTensors]:
        names, sizes = sorted(delta), [delta[name].size for name in sorted(delta)]
        wanted = _row(delta, names)
        if error_feedback:
            if {name: state[name].shape for name in state} != {name: delta[name].shape for name in names}:
                raise LocalProtocolError("the residual is of other tensors than the delta")
            wanted = wanted + _row(state, names)
        if not np.isfinite(wanted).all():
            raise ValueError("a delta that is not finite cannot be encoded")
        payload = pack(_as_float32(wanted), sizes)
        content = _MAGIC + _fingerprint(label, {name: delta[name].shape for name in names}) + payload
        if not error_feedback:
            return content, {}
        lost = _as_float32(wanted - unpack(payload, sizes))
        return content, _named(lost, {name: delta[name].shape for name in names})

    def decode(content: bytes, spec: Spec) -> dict[str, np.ndarray]:
        shapes = {name: shape for name, (_, shape) in sorted(spec.items())}
        if len(content) < _HEADER_NBYTES or content[: len(_MAGIC)] != _MAGIC:
            raise RemoteProtocolError("CODEC", "not an encoded delta")
        odd = [name for name, (dtype, _) in spec.items() if dtype != "float32"]
        if odd or content[len(_MAGIC) : _HEADER_NBYTES] != _fingerprint(label, shapes):
            raise RemoteProtocolError("SCHEMA", f"not a delta of this run's adapter by {label}")
        values = unpack(content[_HEADER_NBYTES:], [math.prod(shape) for shape in shapes.values()])
        if not np.isfinite(values).all():
            raise RemoteProtocolError("NONFINITE", "the delta holds NaN or Inf")
        return _named(values, shapes)

    return Codec(init, encode, decode)


def require_nbytes(payload: bytes, nbytes: int) -> None:
    """Refuse a payload of another length.

    Raises:
      RemoteProtocolError: CODEC.
    """
    if len(payload) != nbytes:
        raise RemoteProtocolError("CODEC", f"a payload of {len(payload)} bytes where {nbytes} are expected")


def require_scales(scales: np.ndarray) -> np.ndarray:
    """Scales that are finite and not negative, as they came.

    Raises:
      RemoteProtocolError: CODEC.
    """
    if not (np.isfinite(scales) & ~np.signbit(scales)).all():
        raise RemoteProtocolError("CODEC", "a scale that is negative or not finite")
    return scales


def _as_float32(row: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(row, -_LARGEST, _LARGEST).astype(np.float32)
    return clipped


def _row(values: NamedTensors, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.asarray(values[name], np.float64).ravel() for name in names)])


def _named(row: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(row, ends[:-1]) if shapes else []
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _fingerprint(label: str, shapes: dict[str, tuple[int, ...]]) -> bytes:
    return hashlib.sha256(repr((label, list(shapes.items()))).encode("utf-8", "backslashreplace")).digest()[:16]
