"""CURVE on the sockets, who may come in, and what a worker learns of a handshake that failed.

A CURVE server without a ZAP handler lets any key in, and one with a domain but without ENFORCE_DOMAIN does too. Here
the handler is a socket of the coordinator's own thread: where that does not answer, nobody comes in.
"""

from __future__ import annotations

import time
from typing import Literal, NoReturn

import zmq
from zmq.utils.monitor import parse_monitor_message
from zmq.utils.z85 import encode

from fedmq.errors import ConfigError, KeyRefused, ServerKeyMismatch
from fedmq.transport.allowed import AllowList
from fedmq.transport.base import Notice
from fedmq.transport.keys import KeyPair, PublicKey, fingerprint

_DOMAIN = b"fedmq"
#: Handshakes in a row that end at once and without a word, before a worker that was never let in says whose fault it
#: is: some three seconds. A coordinator that is busy lets them wait for five seconds each; those do not count.
_MAX_SILENT = 30
_AT_ONCE_S = 2.0
#: Refusals in a row before a worker that was let in once believes them.
_MAX_REFUSED = 3
#: Strangers' keys that are counted one by one; keys are free to make.
_MAX_STRANGERS = 32
_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


def require_curve() -> None:
    """Raises ConfigError where libzmq was built without CURVE."""
    if not zmq.has("curve"):
        raise ConfigError("this libzmq has no CURVE: install the pyzmq wheel from PyPI")


class Door:
    """The coordinator's end: its pair, and the list by which it lets workers in.

    Args:
      pair: the coordinator's.
      allowed: followed while it runs.
    """

    def __init__(self, pair: KeyPair, allowed: AllowList) -> None:
        require_curve()
        self._pair, self._allowed = pair, allowed
        self._refused: dict[str, int] = {}

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        """The socket on which libzmq asks; to be read by `answer`. It has to be there before any other is bound."""
        asked = context.socket(zmq.REP)
        asked.set(zmq.LINGER, 0)
        asked.bind("inproc://zeromq.zap.01")
        return asked

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let only allowed keys through this socket; before it is bound."""
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self._pair.secret.z85.encode())
        socket.set(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if not (socket.get(zmq.CURVE_SERVER) and socket.get(zmq.ZAP_ENFORCE_DOMAIN)):
            raise ConfigError("this libzmq does not enforce authentication")

    def answer(self, asked: zmq.Socket[bytes]) -> list[Notice]:
        """Answer one question of libzmq (RFC 27): 200 with the key as User-Id, or 400."""
        notices = self.watch()  # whoever was allowed a moment ago may come
        version, request, domain, address, _, mechanism, *credentials = asked.recv_multipart()
        key = ""
        if (version, domain, mechanism) == (b"1.0", _DOMAIN, b"CURVE") and len(credentials) == 1:
            key = encode(credentials[0]).decode() if len(credentials[0]) == 32 else ""
        known = self._allowed.name(key) is not None
        status = (b"200", b"OK", key.encode()) if known else (b"400", b"not allowed", b"")
        asked.send_multipart([b"1.0", request, *status, b""])
        return notices if known else notices + self._note(key, address.decode("ascii", "replace"))

    def owner(self, key: object) -> str | None:
        """The worker that has this key and may be here now. A handshake is asked about once, a message each time."""
        return self._allowed.name(key) if isinstance(key, str) else None

    def watch(self) -> list[Notice]:
        """Follow the list."""
        try:
            return [Notice("revoked", name, f"the key of {name} was revoked") for name in self._allowed.reload()]
        except ConfigError as error:
            return [Notice("list", "", f"{error}; the list of before stays in force")]

    def _note(self, key: str, address: str) -> list[Notice]:
        if key not in self._refused and len(self._refused) >= _MAX_STRANGERS:
            key = ""
        count = self._refused[key] = self._refused.get(key, 0) + 1
        if count.bit_count() != 1:
            return []
        who = f"a key that is not allowed (fingerprint {fingerprint(key)})" if key else "a peer without an allowed key"
        return [Notice("stranger", "", f"{who} knocked from {address} (time {count})")]


class Ticket:
    """The worker's end: its pair and the coordinator's public key; None is a link without keys.

    Args:
      keys: of the worker, and of the coordinator.
      address: for messages.
    """

    def __init__(self, keys: tuple[KeyPair, PublicKey] | None, address: str) -> None:
        if keys is not None:
            require_curve()
        self._keys, self._address = keys, address
        self._silent, self._refused, self._failed_at, self._entered = 0, 0, 0.0, False

    def show(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Set the keys on a socket before it connects; returns the socket on which its handshakes are told."""
        if self._keys is not None:
            pair, server = self._keys
            socket.set(zmq.CURVE_PUBLICKEY, pair.public.z85.encode())
            socket.set(zmq.CURVE_SECRETKEY, pair.secret.z85.encode())
            socket.set(zmq.CURVE_SERVERKEY, server.z85.encode())
        return socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def hear(self, monitor: zmq.Socket[bytes]) -> Literal["linked", "failed", "lost"]:
        """Take one event: the link is there, libzmq tries again, or the socket has to be made anew.

        Raises:
          KeyRefused: the coordinator does not know our key, or wants one.
          ServerKeyMismatch: whoever listens there has not the key that we were given.
        """
        event = parse_monitor_message(monitor.recv_multipart())["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._silent, self._refused, self._entered = 0, 0, True
            return "linked"
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            # libzmq believes it of whoever is on the line; one word of that does not end a worker that was let in.
            self._refused += 1
            if self._refused >= _MAX_REFUSED or not self._entered:
                self._explain_refusal()
            return "lost"
        now = time.monotonic()
        self._silent = self._silent + 1 if now < self._failed_at + _AT_ONCE_S else 1
        self._failed_at = now
        if self._silent >= _MAX_SILENT and not self._entered:
            self._explain(event)
        return "lost" if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else "failed"

    def _explain_refusal(self) -> NoReturn:
        if self._keys is None:
            raise KeyRefused(f"{self._address} refuses a worker without keys: --key NAME.key --server-key FILE.pub")
        own = self._keys[0].public
        raise KeyRefused(
            f"{self._address} does not allow this worker's key ({own.name}, fingerprint {fingerprint(own.z85)}): "
            f"on the coordinator's host, `fedmq keys allow {own.name}.pub`"
        )

    def _explain(self, event: int) -> None:
        if self._keys is not None:
            server = self._keys[1]
            raise ServerKeyMismatch(
                f"whoever listens on {self._address} has not the secret of the server key that this worker was given "
                f"({server.name}, fingerprint {fingerprint(server.z85)}), or is no coordinator with keys"
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            raise KeyRefused(
                f"the coordinator at {self._address} wants keys: --key NAME.key --server-key FILE.pub (or it is none)"
            )
