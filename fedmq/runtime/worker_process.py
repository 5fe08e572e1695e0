"""One worker as a process: from command-line options to an agent that runs to its end."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from fedmq.errors import ConfigError
from fedmq.protocol.trainer_link import Source
from fedmq.protocol.worker_events import Exit
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.zeromq import ZmqWorkerTransport, is_loopback


def run_worker(
    *,
    connect: str,
    data: Sequence[str],
    clients: Sequence[str],
    device: str,
    name: str | None,
    model: str | None,
    cache_dir: str | None,
    work_dir: str | None,
    log_dir: str | None,
    num_threads: int | None,
    parent_fd: int | None,
) -> tuple[int, str]:
    """Run a worker; returns its exit code and the reason in words.

    Raises:
      ConfigError: the options cannot be used.
    """
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", f"{socket.gethostname()}-{os.getpid()}")[-63:].lstrip(".")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}", name):
        raise ConfigError(f"--name {name!r}: at most 63 letters, digits, dots, dashes and underscores, no leading dot")
    given, loopback = sources(data, clients), is_loopback(connect)
    folder = Path(work_dir or f"fedmq_{name}")
    folder.mkdir(parents=True, exist_ok=True)
    logs = Path(log_dir) if log_dir else folder
    logs.mkdir(parents=True, exist_ok=True)
    options = WorkerOptions(
        name=name,
        sources=given,
        device=device,
        work_dir=folder,
        log_file=logs / f"{name}.log",
        log_dir=logs,
        num_threads=num_threads or os.cpu_count() or 1,
        model=model,
        cache_dir=cache_dir,
        loopback=loopback,
        parent_fd=parent_fd,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    agent = WorkerAgent(options, ZmqWorkerTransport(connect))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: agent.leave(f"interrupted by {signal.Signals(n).name}"))
    end: Exit = agent.run()
    return end.code, end.reason


def sources(data: Sequence[str], clients: Sequence[str]) -> tuple[Source, ...]:
    """Pair each CSV among `data` with the next of `clients`; shards carry their own name.

    Raises:
      ConfigError: a path does not exist, or CSVs and names do not match.

    Example:
      >>> sources([], [])
      ()
    """
    paths = [Path(path) for path in data]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"--data {path}: no such file or folder (current folder: {Path.cwd()})")
    files = [path for path in paths if path.is_file()]
    if len(files) != len(clients):
        raise ConfigError(
            f"{len(files)} CSV by --data and {len(clients)} --client: each CSV needs one name, each name one CSV"
        )
    names = iter(clients)
    return tuple(Source(str(path), _client_id(next(names)) if path.is_file() else None) for path in paths)


def _client_id(name: str) -> str:
    client = name if name.startswith("client_") else f"client_{name}"
    if not re.fullmatch(r"client_[A-Za-z0-9_.-]{1,57}", client):
        raise ConfigError(f"--client {name!r}: at most 57 letters, digits, dots, dashes and underscores")
    return client
