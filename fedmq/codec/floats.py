"""Codecs that keep every value as a float: fp32, bf16, fp16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq.codec.bfloat16 import from_bfloat16, to_bfloat16
from fedmq.codec.delta import Codec, make_codec, require_nbytes
from fedmq.codec.zstd import compress, expand

_LARGEST_HALF = float(np.finfo(np.float16).max)


def fp32() -> Codec:
    """Every value as float32: 4 bytes each, nothing is lost of a float32 delta.

    Example:
      >>> codec, delta = fp32(), {"w": np.array([0.1, -2.0], np.float32)}
      >>> content, _ = codec.encode(delta, {})
      >>> codec.decode(content, {"w": ("float32", (2,))})["w"]
      array([ 0.1, -2. ], dtype=float32)
    """

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        require_nbytes(payload, 4 * sum(sizes))
        return np.frombuffer(payload, "<f4").astype(np.float32)

    return make_codec("fp32", lambda values, sizes: values.astype("<f4").tobytes(), unpack, error_feedback=False)


def bf16(error_feedback: bool = False) -> Codec:
    """Every value rounded to bfloat16 (8 significant bits), the bytes parted into low and high ones, then zstd.

    |error| <= 2^-9 |value|. The high bytes, sign and exponent, are much alike and shrink to a third or so.

    Example:
      >>> codec, delta = bf16(), {"w": np.array([1.0, 1.001], np.float32)}
      >>> codec.decode(codec.encode(delta, {})[0], {"w": ("float32", (2,))})["w"]
      array([1., 1.], dtype=float32)
    """

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        return from_bfloat16(_from_planes(payload, sum(sizes)))

    return make_codec("bf16", lambda values, sizes: _planes(to_bfloat16(values)), unpack, error_feedback)


def fp16(error_feedback: bool = False) -> Codec:
    """Every value rounded to float16 (11 significant bits), then as `bf16`.

    |error| <= 2^-12 |value| where |value| >= 6.1e-5, at most 3e-8 below that; what is beyond 65,504 becomes 65,504.

    Example:
      >>> codec, delta = fp16(), {"w": np.array([1.0, 1.001], np.float32)}
      >>> codec.decode(codec.encode(delta, {})[0], {"w": ("float32", (2,))})["w"]
      array([1.       , 1.0009766], dtype=float32)
    """

    def pack(values: np.ndarray, sizes: Sequence[int]) -> bytes:
        return _planes(np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).view(np.uint16))

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        return _from_planes(payload, sum(sizes)).view(np.float16).astype(np.float32)

    return make_codec("fp16", pack, unpack, error_feedback)


def _planes(words: np.ndarray) -> bytes:
    return compress(words.astype("<u2").view(np.uint8).reshape(-1, 2).T.tobytes())


def _from_planes(payload: bytes, count: int) -> np.ndarray:
    planes = np.frombuffer(expand(payload, 2 * count, 2 * count), np.uint8).reshape(2, count)
    return np.ascontiguousarray(planes.T).view("<u2").ravel().astype(np.uint16)
