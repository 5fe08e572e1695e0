"""Listening sockets of the system, from which libzmq accepts. They outlive a process that does so for another.

Nothing is ever read from them here. While nobody accepts, whoever connects waits in the backlog, and nobody else can
take the port.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from fedmq.errors import RunError
from fedmq.transport.addresses import parse_address

#: All workers may come back at once.
_BACKLOG = 1024


class Listening(NamedTuple):
    """One socket for each plane."""

    control: socket.socket
    data: socket.socket

    @property
    def address(self) -> str:
        """tcp://HOST:PORT of the control plane, with the real port."""
        host, port = self.control.getsockname()[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    @property
    def data_port(self) -> int:
        """Of the data plane, on the same host."""
        return int(self.data.getsockname()[1])

    def close(self) -> None:
        """Free the ports, unless another process has them too."""
        self.control.close()
        self.data.close()


def listen(bind: str) -> Listening:
    """Listen on tcp://HOST:PORT; the data plane takes PORT + 1 if it is free, else another.

    Raises:
      RunError: the port is in use, or the address is not of this machine.
    """
    host, port = parse_address(bind)
    try:
        control = _open(host, port)
        try:
            return Listening(control, _beside(host, port))
        except OSError:
            control.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunError(
                f"cannot listen on {bind}: the port is in use; choose another, or end the program that has it"
            ) from None
        # Of a name that leads nowhere, `create_server` passes the number on without its kind: they are below 0.
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else str(error.strerror).partition(" (while")[0]
        raise RunError(f"cannot listen on {bind}: {why}; expected an address of this machine") from None


def _beside(host: str, port: int) -> socket.socket:
    if 0 < port < 65535:
        try:
            return _open(host, port + 1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _open(host, 0)


def _open(host: str, port: int) -> socket.socket:
    if host.startswith("["):
        dual = socket.has_dualstack_ipv6()
        opened = socket.create_server((host[1:-1], port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=dual)
    else:
        opened = socket.create_server(("" if host == "*" else host, port), backlog=_BACKLOG)
    opened.setblocking(False)
    return opened
