"""Files of adapters with three factors, as PEFT reads them."""

from __future__ import annotations

from pathlib import Path

from fedmq.algorithms.lora_core import R, folded
from fedmq.codec import raw


def as_peft(file: Path | bytes) -> Path | bytes:
    """The file of an adapter itself, or, where that has an R, the bytes of one with B R in place of B.

    Raises:
      RemoteProtocolError: it has an R, and is damaged.

    Example:
      >>> import numpy as np
      >>> b, r = np.ones((1, 1), np.float32), np.full((1, 1), 5, np.float32)
      >>> content = as_peft(raw.encode({"m.lora_B.weight": b, "m.lora_R.weight": r}))
      >>> raw.decode(content, raw.read_spec(content))
      {'m.lora_B.weight': array([[5.]], dtype=float32)}
    """
    if R.encode() not in _header(file):
        return file
    content = file if isinstance(file, bytes) else file.read_bytes()
    return raw.encode(folded(raw.decode(content, raw.read_spec(content))))


def _header(file: Path | bytes) -> bytes:
    """The names in it, and perhaps some of what follows: an adapter is not read for its names alone."""
    if isinstance(file, bytes):
        return file[: 8 + raw.MAX_HEADER_NBYTES]
    with file.open("rb") as source:
        return source.read(8 + raw.MAX_HEADER_NBYTES)
