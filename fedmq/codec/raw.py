"""Codec "raw": the adapter as a safetensors file, lossless and byte-deterministic.

The bytes are at once the blob on the wire and the `adapter_model.safetensors` on disk, so one
SHA-256 names both. What comes from a peer is checked before the library sees it: safetensors
accepts duplicate names, foreign names and NaN. We write no `__metadata__`, so there is none to be read.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmq.errors import RemoteProtocolError
from fedmq.tensors import NamedTensors, Packed, Spec, side_by_side

MAX_HEADER_NBYTES = 1 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
}


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
    return dict(sorted(_in_place(blob, _header(blob)).items()))


def _header(blob: bytes) -> dict[str, Any]:
    """What stands before the data."""
    if len(blob) < 8:
        raise _refused("shorter than its 8-byte length field")
    (header_nbytes,) = struct.unpack("<Q", blob[:8])
    if not 2 <= header_nbytes <= MAX_HEADER_NBYTES or 8 + header_nbytes > len(blob):
        raise _refused("header length out of range")
    if blob[8:9] != b"{":
        raise _refused("header does not begin with {")
    try:
        header = json.loads(blob[8 : 8 + header_nbytes], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _refused("header is not JSON with distinct keys") from None
    if not isinstance(header, dict):
        raise _refused("header is not an object")
    if "__metadata__" in header:
        raise _refused("metadata, of which an adapter has none")
    return header


def _in_place(blob: bytes, header: dict[str, Any]) -> Spec:
    """`read_spec` in the order in which the data lies, without a hole, up to the end of `blob`."""
    spec, end = {}, 0
    for name, value in sorted(header.items(), key=_begin):
        dtype, shape, begin, end_of_this = _entry(value)
        if begin != end:
            raise _refused("tensors overlap, or leave a hole")
        spec[name], end = (dtype, shape), end_of_this
    if _data_begins(blob) + end != len(blob):
        raise _refused("the data is not as long as the tensors")
    return spec


def decode(blob: bytes, expected: Spec) -> NamedTensors:
    """The tensors in `blob`, which must have exactly the names, dtypes and shapes of `expected` and be finite.

    Args:
      blob: safetensors bytes, from anyone.
      expected: what this run's adapter looks like (`fedmq.tensors.spec`).

    Returns:
      The tensors, not to be written to. Of a file as `encode` writes it, where they are of one dtype and none is empty,
      they are `fedmq.tensors.Packed`: the bytes themselves, not copied.

    Raises:
      RemoteProtocolError: SAFETENSORS (not such a file), SCHEMA (another adapter), NONFINITE (NaN or Inf).
    """
    header = _header(blob)
    declared = _in_place(blob, header)
    if declared != expected:
        raise RemoteProtocolError("SCHEMA", _difference(declared, expected))
    tensors: NamedTensors = _as_it_lies(blob, header, declared) or _loaded(blob)
    if not all(np.isfinite(array).all() for (array,) in side_by_side(tensors)):
        name = next(name for name, value in tensors.items() if not np.isfinite(value).all())
        raise RemoteProtocolError("NONFINITE", f"tensor {name!r} holds NaN or Inf")
    return tensors


def _as_it_lies(blob: bytes, header: dict[str, Any], declared: Spec) -> Packed | None:
    """The data of `blob` as one array, where it is one and the file is as `encode` writes it; else None.

    What the library alone would refuse is never as `encode` writes it: other text than compact UTF-8, sizes beyond the
    data's. Nor is what holds more than its tensors: a header of blanks.
    """
    dtypes, shapes = {dtype for dtype, _ in declared.values()}, {name: shape for name, (_, shape) in declared.items()}
    if len(dtypes) != 1 or list(shapes) != sorted(shapes) or any(0 in shape for shape in shapes.values()):
        return None
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return None
    begin = _data_begins(blob)
    if blob[8:begin] != text + b" " * (-len(text) % 8):
        return None
    array = np.frombuffer(blob, np.dtype(dtypes.pop()).newbyteorder("<"), offset=begin)
    return Packed(array, shapes) if array.flags.aligned else None


def _data_begins(blob: bytes) -> int:
    (header_nbytes,) = struct.unpack_from("<Q", blob)
    return 8 + int(header_nbytes)


def _loaded(blob: bytes) -> NamedTensors:
    """The tensors of any safetensors file."""
    try:
        return dict(sorted(load(blob).items()))
    except (SafetensorError, ValueError, KeyError):
        raise _refused("offsets do not fit the data") from None


def _difference(declared: Spec, expected: Spec) -> str:
    """The first tensor that is foreign, missing, or of another dtype or shape."""
    for name in sorted(declared.keys() | expected.keys()):
        if name not in expected:
            return f"tensor {name[:80]!r} does not belong here"
        if name not in declared:
            return f"tensor {name!r} is missing"
        if declared[name] != expected[name]:
            (given, shape), (dtype, wanted) = declared[name], expected[name]
            return f"tensor {name!r} is {given} {shape}, expected {dtype} {wanted}"
    raise AssertionError("unreachable: they differ")


def _begin(item: tuple[str, Any]) -> tuple[int, int]:
    """Where a tensor's data lies; what is wrong with it is for `_entry` to say."""
    offsets = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    sound = isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)
    return tuple(offsets) if sound else (0, 0)  # type: ignore[arg-type]


def _entry(value: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, begin, end of one tensor, if they fit together."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _refused("a tensor entry has other fields than dtype, shape, data_offsets")
    dtype, shape, (begin, end) = value["dtype"], value["shape"], _begin(("", value))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _refused("a dtype other than F64, F32, F16")
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise _refused("a shape that is not a short list of sizes")
    if value["data_offsets"] != [begin, end] or end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise _refused("offsets that are not those of such a tensor")
    return _DTYPES[dtype].name, tuple(shape), begin, end


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refused(why: str) -> RemoteProtocolError:
    return RemoteProtocolError("SAFETENSORS", why)
