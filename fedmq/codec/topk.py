"""Codec "topk": of each tensor the values that moved most, as signs at their places, and one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq.codec.delta import Codec, make_codec, require_nbytes, require_scales
from fedmq.codec.zstd import compress, expand
from fedmq.errors import RemoteProtocolError

#: A gap of so many values, and not the end of one.
_MORE = 255


def topk(fraction: float = 0.05, error_feedback: bool = True) -> Codec:
    """x -> s sign(x) at the places of the `fraction` of largest |x| of each tensor, 0 elsewhere; s = their mean |x|.

    Places are sent as gaps, a byte each, then zstd: about H(fraction) + fraction bits a value in all, .40 for 5 %.

    Args:
      fraction: in (0, 1]; at least one value of each tensor.
      error_feedback: see `fedmq.codec.delta.make_codec`.

    Example:
      >>> codec, delta = topk(fraction=0.5), {"w": np.array([1.0, -3.0, 0.5, 5.0], np.float32)}
      >>> content, lost = codec.encode(delta, codec.init(delta))
      >>> codec.decode(content, {"w": ("float32", (4,))})["w"]
      array([ 0., -4.,  0.,  4.], dtype=float32)

    Reference:
      Sattler et al. 2019, Sparse Ternary Compression (arXiv 1903.02891), Algorithm 1.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"need fraction in (0, 1], got {fraction!r}")

    def kept(sizes: Sequence[int]) -> np.ndarray:
        return np.array([min(size, max(1, round(fraction * size))) for size in sizes], np.int64)

    def pack(values: np.ndarray, sizes: Sequence[int]) -> bytes:
        places: list[np.ndarray] = []
        scales, begin = [], 0
        for size, count in zip(sizes, kept(sizes), strict=True):
            part = np.abs(values[begin : begin + size])
            here = _largest(part, int(count))
            scales.append(part[here].mean(dtype=np.float64) if size else 0.0)
            places.append(here + begin)
            begin += size
        chosen = np.concatenate([np.zeros(0, np.int64), *places])
        signs = np.packbits(values[chosen] >= 0, bitorder="little").tobytes()
        return np.array(scales, "<f4").tobytes() + signs + compress(_gaps(chosen))

    def unpack(payload: bytes, sizes: Sequence[int]) -> np.ndarray:
        counts, total = kept(sizes), sum(sizes)
        chosen = int(counts.sum())
        signs_at, gaps_at = 4 * len(sizes), 4 * len(sizes) + -(-chosen // 8)
        require_nbytes(payload[:gaps_at], gaps_at)
        scales = require_scales(np.frombuffer(payload[:signs_at], "<f4").astype(np.float32))
        bits = np.unpackbits(np.frombuffer(payload[signs_at:gaps_at], np.uint8), bitorder="little")
        places = _places(expand(payload[gaps_at:], chosen, chosen + total // _MORE), chosen)
        found = np.diff(np.searchsorted(places, np.cumsum([0, *sizes])))
        if bits[chosen:].any() or (found != counts).any():
            raise RemoteProtocolError("CODEC", "places that are not so many of each tensor")
        each, values = np.repeat(scales, counts), np.zeros(total, np.float32)
        values[places] = np.where(bits[:chosen], each, -each)
        return values

    return make_codec(f"topk of {float(fraction)!r}", pack, unpack, error_feedback)


def _largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest, ascending; of equal ones the first."""
    if not count:
        return np.zeros(0, np.int64)
    threshold = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    above = sizes > threshold
    equal = np.flatnonzero(sizes == threshold)[: count - int(above.sum())]
    above[equal] = True
    return np.flatnonzero(above)


def _gaps(places: np.ndarray) -> bytes:
    """For each place, ascending, how many are left out before it: so many times 255, and the rest in one byte."""
    gaps = np.diff(places, prepend=-1) - 1
    lengths = gaps // _MORE + 1
    content = np.full(int(lengths.sum()), _MORE, np.uint8)
    content[np.cumsum(lengths) - 1] = gaps % _MORE
    return content.tobytes()


def _places(content: bytes, count: int) -> np.ndarray:
    gaps = np.frombuffer(content, np.uint8)
    ends = gaps < _MORE
    if int(ends.sum()) != count or (len(ends) and not ends[-1]):
        raise RemoteProtocolError("CODEC", "another number of places")
    places: np.ndarray = (np.cumsum(gaps.astype(np.int64) + ends) - 1)[ends]
    return places
