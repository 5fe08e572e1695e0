"""Codecs that keep small integers and a scale for each block of values: int8, int4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq.codec.bfloat16 import from_bfloat16, to_bfloat16
from fedmq.codec.delta import Codec, make_codec, require_nbytes, require_scales
from fedmq.codec.zstd import compress, expand
from fedmq.errors import RemoteProtocolError

_MAX_BLOCK = 1 << 16


def int8(block: int = 256, error_feedback: bool = False) -> Codec:
    """q = round(x / s) in -127..127, with s = max|x| / 127 of each block, rounded to bfloat16.

    |error| <= s / 2 where s > 1e-38. 1 + 2 / block bytes a value; zstd gains nothing.

    Args:
      block: values that share a scale; the last block of a tensor may be shorter.
      error_feedback: see `fedmq.codec.delta.make_codec`.

    Example:
      >>> codec, delta = int8(), {"w": np.array([127.0, -3.2], np.float32)}
      >>> codec.decode(codec.encode(delta, {})[0], {"w": ("float32", (2,))})["w"]
      array([127.,  -3.], dtype=float32)
    """
    _require_block(block)

    def pack(values: np.ndarray, sizes: Sequence[int]) -> bytes:
        scales, codes = _quantise(values, sizes, block, 127)
        return scales + codes.tobytes()

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        count = _num_blocks(sizes, block)
        require_nbytes(payload, 2 * count + sum(sizes))
        return _dequantise(payload[: 2 * count], np.frombuffer(payload[2 * count :], np.int8), sizes, block)

    return make_codec(f"int8 in blocks of {block}", pack, unpack, error_feedback)


def int4(block: int = 64, error_feedback: bool = False) -> Codec:
    """q = round(x / s) in -7..7, with s = max|x| / 7 of each block, rounded to bfloat16; two to a byte, then zstd.

    |error| <= s / 2 where s > 1e-38. At most 1/2 + 2 / block bytes a value.

    Args:
      block: as of `int8`.
      error_feedback: see `fedmq.codec.delta.make_codec`.

    Example:
      >>> codec, delta = int4(), {"w": np.array([7.0, -3.2, 0.4], np.float32)}
      >>> codec.decode(codec.encode(delta, {})[0], {"w": ("float32", (3,))})["w"]
      array([ 7., -3.,  0.], dtype=float32)
    """
    _require_block(block)

    def pack(values: np.ndarray, sizes: Sequence[int]) -> bytes:
        scales, codes = _quantise(values, sizes, block, 7)
        nibbles = np.full(-(-len(codes) // 2) * 2, 8, np.uint8)
        nibbles[: len(codes)] = codes + 8
        return compress(scales + (nibbles[0::2] | nibbles[1::2] << 4).tobytes())

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        count, total = _num_blocks(sizes, block), sum(sizes)
        nbytes = 2 * count + -(-total // 2)
        content = expand(payload, nbytes, nbytes)
        pairs = np.frombuffer(content[2 * count :], np.uint8)
        nibbles = np.empty(2 * len(pairs), np.uint8)
        nibbles[0::2], nibbles[1::2] = pairs & 15, pairs >> 4
        if (nibbles[total:] != 8).any():
            raise RemoteProtocolError("CODEC", "a value beyond the last one")
        return _dequantise(content[: 2 * count], nibbles[:total].astype(np.int8) - np.int8(8), sizes, block)

    return make_codec(f"int4 in blocks of {block}", pack, unpack, error_feedback)


def _require_block(block: int) -> None:
    if type(block) is not int or not 1 <= block <= _MAX_BLOCK:
        raise ValueError(f"need block from 1 to {_MAX_BLOCK}, got {block!r}")


def _num_blocks(sizes: Sequence[int], block: int) -> int:
    return sum(-(-size // block) for size in sizes)


def _inside(sizes: Sequence[int], block: int) -> np.ndarray | None:
    """Which places of whole blocks hold values; None when all do."""
    if not any(size % block for size in sizes):
        return None
    parts = [np.arange(-(-size // block) * block) < size for size in sizes]
    return np.concatenate(parts)


def _quantise(values: np.ndarray, sizes: Sequence[int], block: int, levels: int) -> tuple[bytes, np.ndarray]:
    inside, whole = _inside(sizes, block), values
    if inside is not None:
        whole = np.zeros(len(inside), np.float32)
        whole[inside] = values
    blocks = whole.reshape(-1, block)
    bits = to_bfloat16(np.abs(blocks).max(axis=1, initial=0) / np.float32(levels))
    scales = from_bfloat16(bits)[:, None]
    # A block whose scale is too small for a float is zero.
    ratios = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    codes = np.clip(np.rint(ratios), -levels, levels).astype(np.int8).ravel()
    return bits.astype("<u2").tobytes(), codes if inside is None else codes[inside]


def _dequantise(scales: bytes, codes: np.ndarray, sizes: Sequence[int], block: int) -> np.ndarray:
    steps = require_scales(from_bfloat16(np.frombuffer(scales, "<u2")))
    inside, whole = _inside(sizes, block), codes
    if inside is not None:
        whole = np.zeros(len(inside), np.int8)
        whole[inside] = codes
    with np.errstate(over="ignore"):  # a peer's scale may be too large: what comes of it is not finite, and refused
        values: np.ndarray = (whole.reshape(-1, block) * steps[:, None]).ravel()
    return values if inside is None else values[inside]
