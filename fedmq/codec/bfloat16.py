"""bfloat16 without a library: the upper half of a float32, as uint16."""

from __future__ import annotations

import numpy as np

_LARGEST = 0x7F7F


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 bits, rounded to nearest even; what would round to infinity becomes the largest number.

    Args:
      values: float32, finite.

    Example:
      >>> hex(to_bfloat16(np.array([1.0], np.float32))[0])
      '0x3f80'
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    overflown = (rounded & 0x7F80) == 0x7F80
    return np.where(overflown, (rounded & 0x8000) | _LARGEST, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits to float32, exactly.

    Example:
      >>> from_bfloat16(np.array([0x3F80], np.uint16))
      array([1.], dtype=float32)
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)
