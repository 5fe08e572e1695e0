"""Zstandard frames whose size is known, and held against what is expected, before memory is taken for it."""

from __future__ import annotations

import zstandard

from fedmq.errors import RemoteProtocolError

_LEVEL = 3
#: zstd rounds the window of a small frame up to this
_LEAST_WINDOW = 1 << 10


def compress(content: bytes) -> bytes:
    """One frame that states its content's size. Equal bytes for equal content, within one version of the library.

    Example:
      >>> expand(compress(b"a" * 100), 100, 100) == b"a" * 100
      True
    """
    return zstandard.ZstdCompressor(level=_LEVEL).compress(content)


def expand(frame: bytes, least: int, most: int) -> bytes:
    """The content of one frame, from anyone.

    Args:
      frame: nothing may follow it.
      least, most: bounds of the content's size in bytes; no more than `most` is ever allocated.

    Raises:
      RemoteProtocolError: CODEC.
    """
    try:
        said = zstandard.get_frame_parameters(frame)
        if not least <= said.content_size <= most or said.window_size > max(most, _LEAST_WINDOW) or said.dict_id:
            raise RemoteProtocolError("CODEC", f"a frame of another size than {least} to {most} bytes")
        content = zstandard.ZstdDecompressor().decompress(frame, max_output_size=most, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        raise RemoteProtocolError("CODEC", "not a whole zstd frame") from None
    if len(content) != said.content_size:
        raise RemoteProtocolError("CODEC", "a frame that holds less than it says")
    return content
