"""`fedmq dashboard`: a run as a web page, and the process that `fedmq run --dashboard` starts for it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fedmq.errors import ConfigError

_TOKEN = "FEDMQ_DASHBOARD_TOKEN"  # noqa: S105 - the name of a variable


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option("--host", "--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="TCP port to listen on; 0 = any that is free.",
)
@click.option("--log-dir", type=click.Path(), help="Folder of the logs; default: the run's log_dir.")
def dashboard(run_dir: str, host: str, port: int, log_dir: str | None) -> None:
    """Serve RUN_DIR, running, finished or copied, as a web page until Ctrl-C; nothing in it is changed.

    Off loopback the page asks for a token: that of the variable FEDMQ_DASHBOARD_TOKEN, or one that is made and printed.
    """
    try:
        from fedmq.dashboard.access import is_loopback
        from fedmq.dashboard.server import listen, serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"the dashboard needs {error.name}: pip install 'fedmq[dashboard]'") from None
    from fedmq.dashboard.watch import Watched

    given = os.environ.get(_TOKEN)
    token = given or (None if is_loopback(host) else secrets.token_urlsafe())
    run = Watched(Path(run_dir), None if log_dir is None else Path(log_dir))
    with listen(host, port) as on:
        place = f"[{host}]" if ":" in host else host
        shown = f"?token={token}" if token and not given else ""
        click.echo(f"dashboard of {run_dir}: http://{place}:{on.getsockname()[1]}/{shown}")
        sys.stdout.flush()
        serve(run, on, host, token)


@contextmanager
def watched(run_dir: str) -> Iterator[None]:
    """The dashboard of a run while the block runs: a process of its own, so that it cannot end the run."""
    command = [sys.executable, "-m", "fedmq", "dashboard", run_dir]
    # A session of its own: Ctrl-C is for the run, which ends the dashboard when it has ended itself.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    try:
        yield
    finally:
        child.terminate()
        child.wait()
        click.echo(f"the dashboard has ended with the run; `fedmq dashboard {run_dir}` shows it again", err=True)
