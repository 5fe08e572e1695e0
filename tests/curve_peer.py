"""A peer that speaks ZMTP and CURVE by hand, so that it can say what libzmq never would (RFC 23 and 26)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import struct
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from fedmq.transport.keys import KeyPair, PublicKey

#: To whom a box is, and from whom: a public key, and a secret one.
Keys = tuple[bytes, bytes]


def sodium() -> Any:
    """The libsodium that libzmq is linked with; None if it has none."""
    zmq.curve_keypair()
    found = re.search(r"/\S*libsodium\S*", Path("/proc/self/maps").read_text())
    return ctypes.CDLL(found[0]) if found else None


class CurvePeer:
    """A worker's link, after its handshake.

    Args:
      port: of the coordinator on loopback.
      pair: the worker's.
      server: the coordinator's.
    """

    def __init__(self, port: int, pair: KeyPair, server: PublicKey) -> None:
        self._sodium, self._count, self.sent = sodium(), 0, 0
        own = (z85.decode(pair.public.z85), z85.decode(pair.secret.z85))
        long_term, (short, short_secret) = z85.decode(server.z85), (z85.decode(key) for key in zmq.curve_keypair())
        self._link = socket.create_connection(("127.0.0.1", port))
        self._link.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32))
        self._take(64)
        nonce = self._nonce()
        proof = self._box(bytes(64), b"CurveZMQHELLO---" + nonce, (long_term, short_secret))
        self._command(b"\x05HELLO\x01\x00" + bytes(72) + short + nonce + proof)
        welcome = self._answer(b"\x07WELCOME")
        opened = self._open(welcome[16:], b"WELCOME-" + welcome[:16], (long_term, short_secret))
        server_short, cookie = opened[:32], opened[32:]
        vouch_nonce = os.urandom(16)
        vouch = self._box(short + long_term, b"VOUCH---" + vouch_nonce, (server_short, own[1]))
        metadata = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER" + b"\x08Identity" + bytes(4)
        nonce = self._nonce()
        said = own[0] + vouch_nonce + vouch + metadata
        initiate = self._box(said, b"CurveZMQINITIATE" + nonce, (server_short, short_secret))
        self._command(b"\x08INITIATE" + cookie + nonce + initiate)
        self._answer(b"\x05READY")
        self._keys = (server_short, short_secret)

    def stream(self, frame_nbytes: int, most_nbytes: int) -> None:
        """One message that has no end, until the link is cut, or `most_nbytes` have gone."""
        frame = b"\x01" + bytes(frame_nbytes)  # more follow
        try:
            while self.sent < most_nbytes:
                nonce = self._nonce()
                body = b"\x07MESSAGE" + nonce + self._box(frame, b"CurveZMQMESSAGEC" + nonce, self._keys)
                self._link.sendall(b"\x02" + struct.pack(">Q", len(body)) + body)
                self.sent += frame_nbytes
        except OSError:
            pass
        finally:
            self._link.close()

    def heartbeat(self) -> float:
        """Wait for the next PING: after how many seconds of silence it lets the link be given up."""
        while True:
            kind, size = self._take(2)
            body = self._take(size)
            assert not kind & 2, "short, as what a coordinator says unasked is"
            plain = self._open(body[16:], b"CurveZMQMESSAGES" + body[8:16], self._keys)
            if plain[1:].startswith(b"\x04PING"):
                return int.from_bytes(plain[6:8], "big") / 10

    def until_cut(self) -> int:
        """Answer nothing until the link is cut; how often it was asked."""
        asked = 0
        with contextlib.suppress(ConnectionResetError):
            while True:
                self.heartbeat()
                asked += 1
        return asked

    def close(self) -> None:
        """Hang up, also on a thread that waits for what comes."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _nonce(self) -> bytes:
        self._count += 1
        return struct.pack(">Q", self._count)

    def _box(self, plain: bytes, nonce: bytes, keys: Keys) -> bytes:
        out = ctypes.create_string_buffer(len(plain) + 16)
        assert self._sodium.crypto_box_easy(out, plain, ctypes.c_ulonglong(len(plain)), nonce, *keys) == 0
        return out.raw

    def _open(self, box: bytes, nonce: bytes, keys: Keys) -> bytes:
        out = ctypes.create_string_buffer(len(box) - 16)
        assert self._sodium.crypto_box_open_easy(out, box, ctypes.c_ulonglong(len(box)), nonce, *keys) == 0
        return out.raw

    def _command(self, body: bytes) -> None:
        short = len(body) < 256
        self._link.sendall((b"\x04" + bytes([len(body)]) if short else b"\x06" + struct.pack(">Q", len(body))) + body)

    def _answer(self, name: bytes) -> bytes:
        (size,) = self._take(2)[1:]
        body = self._take(size)
        assert body.startswith(name), body
        return body.removeprefix(name)

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            piece = self._link.recv(count - len(taken))
            if not piece:
                raise ConnectionResetError("the link was cut")
            taken += piece
        return taken
