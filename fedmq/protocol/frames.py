"""Messages to header bytes and back, strictly.

A header is the msgpack of a map {"v": version, "t": type, then the fields in their order}. Neither
msgpack nor pydantic is strict alone (duplicate keys, 1 for True, 1 for 1.0 ...), so a decoded
message is encoded again and must give the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import msgpack
from pydantic import TypeAdapter

from fedmq.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from fedmq.protocol.messages import PROTOCOL_VERSION

MAX_HEADER_NBYTES = 256 * 1024


class Codec:
    """Encoder and decoder for one direction of one plane: a closed set of message types."""

    def __init__(self, types: Iterable[type]) -> None:
        self._types = {tag(kind): kind for kind in types}
        self._adapters: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in self._types.items()}

    def encode(self, message: Any) -> bytes:
        """Header bytes of `message`. LocalProtocolError when it is not of this direction or too large."""
        name = tag(type(message))
        if name not in self._types:
            raise LocalProtocolError(f"cannot send {name} here; known: {', '.join(sorted(self._types))}")
        header = _pack(name, message)
        if len(header) > MAX_HEADER_NBYTES:
            raise LocalProtocolError(f"{name} takes {len(header)} bytes, at most {MAX_HEADER_NBYTES} are allowed")
        return header

    def decode(self, header: bytes) -> Any:
        """The message in `header`.

        Raises:
          VersionMismatch: another protocol version.
          RemoteProtocolError: TOO_LARGE, MALFORMED, UNKNOWN_TYPE, INVALID (with the field's path) or NONCANONICAL.
        """
        if len(header) > MAX_HEADER_NBYTES:
            raise RemoteProtocolError("TOO_LARGE", f"header of {len(header)} bytes")
        try:
            fields = msgpack.unpackb(header, use_list=False, max_array_len=4096, max_map_len=64, max_ext_len=0)
        except (ValueError, RecursionError):
            raise RemoteProtocolError("MALFORMED", "header is not msgpack") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("t"), str):
            raise RemoteProtocolError("MALFORMED", "header is not a map with a type")
        version = fields.pop("v", None)
        if version != PROTOCOL_VERSION or type(version) is not int:
            # Only a number is shown: the repr of a deeply nested value overflows the stack.
            spoken = version if type(version) is int else "of no number"
            raise VersionMismatch("VERSION", f"peer speaks protocol {spoken}, this is {PROTOCOL_VERSION}")
        name = fields.pop("t")
        if name not in self._types:
            raise RemoteProtocolError("UNKNOWN_TYPE", f"{name!r:.40}")
        try:
            message = self._adapters[name].validate_python(fields)
        except ValueError as error:
            # The text of a ValidationError repeats the peer's input: name only where it went wrong.
            raise RemoteProtocolError("INVALID", f"{name}: {_where(error)}") from None
        if _pack(name, message) != header:
            raise RemoteProtocolError("NONCANONICAL", name)
        return message


def tag(kind: type) -> str:
    """The type's name on the wire.

    Example:
      >>> from fedmq.protocol.messages import HeartbeatAck
      >>> tag(HeartbeatAck)
      'heartbeat_ack'
    """
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")


def _pack(name: str, message: Any) -> bytes:
    packed: bytes = msgpack.packb({"v": PROTOCOL_VERSION, "t": name, **_plain(message)})
    return packed


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _where(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return "not a value of this type"
    first = errors(include_input=False, include_url=False, include_context=False)[0]
    path = ".".join(str(part)[:40] for part in first["loc"])
    # An unknown field's name is the peer's: no control characters of it reach a terminal or a log.
    return f"{ascii(path)[1:-1][:120]} ({first['type']})"
