"""The server of the page: a socket, a token, uvicorn."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn

from fedmq.dashboard.access import Guard, is_loopback
from fedmq.dashboard.app import dashboard_app
from fedmq.dashboard.watch import Watch
from fedmq.errors import ConfigError, RunError

#: A token that somebody has made up can be guessed.
_MIN_TOKEN = 16
#: It gives way to a run on this machine.
_NICENESS = 10


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
      ConfigError: this machine has no such address.
      RunError: the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}; give an address of this machine") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise RunError(f"port {port} of {host} is taken: give another --port, or 0 for any free one") from None
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from None
    return listening


def token_for(host: str, given: str | None) -> str | None:
    """What whoever looks must have: the given token, or off loopback a new one; None on loopback.

    Raises:
      ConfigError: the given token is too short to be secret, or cannot stand in a header.
    """
    if given is None:
        return None if is_loopback(host) else secrets.token_urlsafe(32)
    if len(given) < _MIN_TOKEN or not (given.isascii() and given.replace("-", "").replace("_", "").isalnum()):
        raise ConfigError(
            f"the token has {len(given)} characters; expected {_MIN_TOKEN} or more of A-Z, a-z, 0-9, - and _, such as "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes"
        )
    return given


def url_of(listening: socket.socket, host: str, token: str | None) -> str:
    """What to open in a browser, with the token if it is to be seen."""
    port = listening.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def serve(
    watch: Watch,
    listening: socket.socket,
    host: str,
    token: str | None,
    log_dir: Path | None,
    parent_fd: int | None,
    begun: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM comes, or the parent is gone.

    Args:
      watch: that has had its first look.
      listening: from `listen`.
      host: what it was given.
      token: from `token_for`.
      log_dir: LOG_DIR, if it is not where the config has it.
      parent_fd: readable at end of file when the process that started us is gone; None = nobody to follow.
      begun: called when signals are heeded.
    """
    os.nice(_NICENESS)
    app = dashboard_app(watch, log_dir, stopping=lambda: server.should_exit)
    guard = Guard(app, host, listening.getsockname()[1], token)
    config = uvicorn.Config(
        guard, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none"
    )
    # A browser may be slow to take the last event.
    config.timeout_graceful_shutdown = 2
    server = uvicorn.Server(config)
    if parent_fd is not None:
        threading.Thread(target=_end_with, args=(parent_fd, server), name="parent", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Until uvicorn has handlers of its own: it looks at this when it is up.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    begun()
    server.run(sockets=[listening])


def _end_with(parent_fd: int, server: uvicorn.Server) -> None:
    os.read(parent_fd, 1)  # nobody writes: it returns at end of file
    server.should_exit = True
