"""The transport over ZeroMQ: ROUTER at the coordinator, DEALER at the worker, two sockets each.

Routing ids are anonymous and HANDOVER is off: a fixed id can be lost after a reconnect, and with
HANDOVER be taken over by another peer. Options not explained here: docs/protocol.md.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import zmq

from fedmq.errors import ConfigError, RunError
from fedmq.transport.base import Incoming, Payload, Plane, Received

CHUNK_NBYTES = 1 << 20
_MAX_MESSAGE = {"control": 256 * 1024, "data": CHUNK_NBYTES + 4096}
_HIGH_WATER = {"control": 256, "data": 16}
#: One wait returns at most this many messages, so that timers are looked at under a flood too.
_BATCH = 256


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of tcp://HOST:PORT; port 0 or * lets the system choose.

    Raises:
      ConfigError: it is something else.

    Example:
      >>> parse_address("tcp://127.0.0.1:5555")
      ('127.0.0.1', 5555)
    """
    parts = urlsplit(address.replace(":*", ":0"))
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or port is None or parts.path:
        raise ConfigError(f"address {address!r}: expected tcp://HOST:PORT, such as tcp://127.0.0.1:5555")
    return (f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname), port


def is_loopback(address: str) -> bool:
    """Whether the address stays on this machine: a loopback IP address, or localhost.

    Example:
      >>> is_loopback("tcp://127.0.0.1:5555"), is_loopback("tcp://127.0.0.1.example.com:5555")
      (True, False)
    """
    host = parse_address(address)[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def require_loopback(address: str) -> None:
    """Nothing here is encrypted or authenticated yet, so nothing leaves this machine in the clear.

    Raises:
      ConfigError: the address is not on loopback.
    """
    if not is_loopback(address):
        raise ConfigError(
            f"address {address}: without encryption only loopback is allowed; between hosts, use tcp://127.0.0.1:PORT "
            "at both ends of an SSH tunnel that forwards PORT and PORT + 1"
        )


class _Sockets:
    """A context, the sockets of both planes, and one poller."""

    def __init__(self, kind: int, host: str) -> None:
        self._kind = kind
        self._ipv6 = host.startswith("[")
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[Plane, zmq.Socket[bytes]] = {}

    def _open(self, plane: Plane) -> zmq.Socket[bytes]:
        socket = self._context.socket(self._kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE[plane])
        socket.set(zmq.SNDHWM, _HIGH_WATER[plane])
        socket.set(zmq.RCVHWM, _HIGH_WATER[plane])
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        socket.set(zmq.HEARTBEAT_IVL, 5000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 15000)
        socket.set(zmq.HEARTBEAT_TTL, 20000)
        if self._kind == zmq.ROUTER:
            socket.set(zmq.ROUTER_MANDATORY, 1)
            socket.set(zmq.BACKLOG, 1024)
        else:
            socket.set(zmq.IMMEDIATE, 1)
            socket.set(zmq.RECONNECT_IVL, 100)
            socket.set(zmq.RECONNECT_IVL_MAX, 5000)
            socket.set(zmq.CONNECT_TIMEOUT, 5000)
        if self._ipv6:
            socket.set(zmq.IPV6, 1)
        self._sockets[plane] = socket
        return socket

    def _send(self, plane: Plane, frames: list[Payload]) -> bool:
        socket = self._sockets.get(plane)
        if socket is None:
            return False
        try:
            socket.send_multipart(frames, zmq.DONTWAIT, copy=plane == "control")
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise
        return True

    def receive(self, timeout_s: float, fds: Sequence[int] = ()) -> Received:
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        for fd in fds:
            poller.register(fd, zmq.POLLIN)
        ready = {key for key, _ in poller.poll(max(0, int(timeout_s * 1000)))}
        messages: list[Incoming] = []
        for plane, socket in self._sockets.items():
            while socket in ready and len(messages) < _BATCH:
                try:
                    frames = socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                peer = frames.pop(0) if self._kind == zmq.ROUTER else b""
                messages.append(Incoming(plane, peer, tuple(frames)))
        return Received(messages, [fd for fd in fds if fd in ready])

    def close(self, linger_s: float = 0.0) -> None:
        for socket in self._sockets.values():
            socket.close(linger=int(linger_s * 1000))
        self._sockets = {}
        self._context.term()


class ZmqCoordinatorTransport(_Sockets):
    """Listens on tcp://HOST:PORT; the data plane takes PORT + 1 if it is free, else another."""

    def __init__(self, bind: str) -> None:
        require_loopback(bind)
        host, port = parse_address(bind)
        super().__init__(zmq.ROUTER, host)
        try:
            self.address = self._bind("control", host, port)
            try:
                data = self._bind("data", host, port + 1 if port else 0)
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._sockets["data"].close()
                data = self._bind("data", host, 0)
        except zmq.ZMQError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                raise RunError(
                    f"cannot listen on {bind}: the port is in use; choose another, or end the program that has it"
                ) from None
            raise RunError(f"cannot listen on {bind}: {error.strerror}; expected an address of this machine") from None
        self.data_port = parse_address(data)[1]

    def _bind(self, plane: Plane, host: str, port: int) -> str:
        socket = self._open(plane)
        socket.bind(f"tcp://{host}:{port or '*'}")
        return str(socket.get_string(zmq.LAST_ENDPOINT))

    def send(self, plane: Plane, peer: bytes, header: bytes, payload: Payload = b"") -> bool:
        return self._send(plane, [peer, header] if plane == "control" else [peer, header, payload])


class ZmqWorkerTransport(_Sockets):
    """Dials tcp://HOST:PORT; connecting goes on in the background for as long as it takes."""

    def __init__(self, connect: str) -> None:
        require_loopback(connect)
        self._host, port = parse_address(connect)
        super().__init__(zmq.DEALER, self._host)
        self._ports: dict[Plane, int] = {"control": port}
        self._dial("control")

    def _dial(self, plane: Plane) -> None:
        self._open(plane).connect(f"tcp://{self._host}:{self._ports[plane]}")

    def dial_data(self, port: int) -> None:
        if self._ports.get("data") == port and "data" in self._sockets:
            return
        if "data" in self._sockets:
            self._sockets.pop("data").close()
        self._ports["data"] = port
        self._dial("data")

    def send(self, plane: Plane, header: bytes, payload: Payload = b"") -> bool:
        return self._send(plane, [header] if plane == "control" else [header, payload])

    def rebuild(self) -> None:
        planes = list(self._sockets)
        for plane in planes:
            self._sockets.pop(plane).close()
        for plane in planes:
            self._dial(plane)
