"""Codec "raw": the adapter as a safetensors file, lossless and byte-deterministic.

The bytes are at once the blob on the wire and the `adapter_model.safetensors` on disk, so one
SHA-256 names both. What comes from a peer is checked before the library sees it: safetensors
accepts duplicate names, foreign names and NaN.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmq.errors import RemoteProtocolError
from fedmq.tensors import NamedTensors, Spec

MAX_HEADER_NBYTES = 1 << 20
_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16"}


def encode(tensors: NamedTensors) -> bytes:
    """Safetensors bytes; equal tensors give equal bytes, whatever the order of the mapping.

    Example:
      >>> a, b = np.zeros(2, np.float32), np.ones(1, np.float32)
      >>> encode({"a": a, "b": b}) == encode({"b": b, "a": a})
      True
    """
    return save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def read_spec(blob: bytes) -> Spec:
    """Names, dtypes and shapes that `blob` declares, strictly checked against its length.

    Raises:
      RemoteProtocolError: code SAFETENSORS with the first thing that is wrong.
    """
    if len(blob) < 8:
        raise _refused("shorter than its 8-byte length field")
    (header_nbytes,) = struct.unpack("<Q", blob[:8])
    if not 2 <= header_nbytes <= MAX_HEADER_NBYTES or 8 + header_nbytes > len(blob):
        raise _refused("header length out of range")
    try:
        header = json.loads(blob[8 : 8 + header_nbytes], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _refused("header is not JSON with distinct keys") from None
    if not isinstance(header, dict):
        raise _refused("header is not an object")
    header.pop("__metadata__", None)
    return {str(name): _entry(value) for name, value in sorted(header.items())}


def decode(blob: bytes, expected: Spec) -> dict[str, np.ndarray]:
    """The tensors in `blob`, which must have exactly the names, dtypes and shapes of `expected` and be finite.

    Args:
      blob: safetensors bytes, from anyone.
      expected: what this run's adapter looks like (`fedmq.tensors.spec`).

    Raises:
      RemoteProtocolError: SAFETENSORS (not such a file), SCHEMA (another adapter), NONFINITE (NaN or Inf).
    """
    declared = read_spec(blob)
    if declared != expected:
        names = sorted(declared.keys() ^ expected.keys()) or [n for n in expected if declared[n] != expected[n]]
        raise RemoteProtocolError("SCHEMA", f"tensor {names[0][:80]!r} is not as this run's adapter has it")
    try:
        tensors = load(blob)
    except (SafetensorError, ValueError, KeyError):
        raise _refused("offsets do not fit the data") from None
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise RemoteProtocolError("NONFINITE", f"tensor {name!r} holds NaN or Inf")
    return dict(sorted(tensors.items()))


def _entry(value: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _refused("a tensor entry has other fields than dtype, shape, data_offsets")
    dtype, shape = value["dtype"], value["shape"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_NAMES:
        raise _refused("a dtype other than F64, F32, F16")
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise _refused("a shape that is not a short list of sizes")
    return _DTYPE_NAMES[dtype], tuple(shape)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refused(why: str) -> RemoteProtocolError:
    return RemoteProtocolError("SAFETENSORS", why)
