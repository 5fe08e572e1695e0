"""`fedmq dashboard`: a run in a browser; `fedmq run --dashboard` starts it as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fedmq.errors import ConfigError

_TOKEN = "FEDMQ_DASHBOARD_TOKEN"  # noqa: S105 - its name
_LOOPBACK = "127.0.0.1"
#: For the last event to reach the browser, seconds.
_END_S = 5.0


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option(
    "--host",
    default=_LOOPBACK,
    show_default=True,
    help="Address or name to listen on; off loopback the page asks for a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="TCP port to listen on; 0 = any that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(),
    metavar="FILE",
    help=f"Holds the token; default: the variable {_TOKEN}, or off loopback one that is made and printed.",
)
@click.option(
    "--log-dir",
    type=click.Path(),
    metavar="DIR",
    help="Folder of the logs; default: the run's log_dir, or in a copy one of that name in it or beside it.",
)
@click.option("--listen-fd", type=int, hidden=True)
@click.option("--parent-fd", type=int, hidden=True)
def dashboard(
    run_dir: str,
    host: str,
    port: int,
    token_file: str | None,
    log_dir: str | None,
    listen_fd: int | None,
    parent_fd: int | None,
) -> None:
    """Serve RUN_DIR, running, finished or copied, as a web page until Ctrl-C; nothing in it is changed."""
    server = server_module()
    import socket

    from fedmq.dashboard.watch import Watch

    if log_dir is not None and not Path(log_dir).is_dir():
        raise ConfigError(f"--log-dir {log_dir} is no folder")
    given = _given_token(token_file)
    token = server.token_for(host, given)
    watch = Watch(Path(run_dir))
    watch.first_look()
    listening = server.listen(host, port) if listen_fd is None else socket.socket(fileno=listen_fd)

    def begun() -> None:
        click.echo(f"dashboard of {run_dir}: {server.url_of(listening, host, None if given else token)}")
        sys.stdout.flush()

    server.serve(watch, listening, host, token, None if log_dir is None else Path(log_dir), parent_fd, begun)


def server_module() -> Any:
    """What serves the page.

    Raises:
      ConfigError: the extra is not installed.
    """
    try:
        from fedmq.dashboard import server
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"the dashboard needs {error.name}, which is not installed: pip install 'fedmq[dashboard]'"
        ) from None
    return server


def _given_token(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(_TOKEN) or None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read ({getattr(error, 'strerror', 'no text')})") from None


@contextmanager
def beside(run_dir: Path, log_dir: Path) -> Iterator[str]:
    """The dashboard of a run on a free port of loopback, while the block runs: a process of its own; its address.

    It cannot end the run, and shows how the run ends, also by SIGKILL, before it ends itself.
    """
    server = server_module()
    # Here, where it is seen, what the child would refuse.
    server.token_for(_LOOPBACK, _given_token(None))
    with server.listen(_LOOPBACK, 0) as listening:
        # Nobody ever writes: the child sees the end of this pipe when our process is gone.
        child_fd, alive_fd = os.pipe()
        passed = listening.fileno(), child_fd
        command = [
            *(sys.executable, "-m", "fedmq", "dashboard", "--log-dir", str(log_dir)),
            *("--listen-fd", str(passed[0]), "--parent-fd", str(child_fd), "--", str(run_dir)),
        ]
        with open(log_dir / "dashboard.log", "ab") as output:
            # In a session of its own: Ctrl-C is for the run.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=passed, start_new_session=True
            )
        os.close(child_fd)
        # A token can only be the user's own here: it is not printed.
        url = server.url_of(listening, _LOOPBACK, None)
    try:
        yield url
    finally:
        os.close(alive_fd)
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
