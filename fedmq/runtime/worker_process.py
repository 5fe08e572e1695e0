"""One worker as a process: from command-line options to an agent that runs to its end."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import re
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from fedmq import crash_points
from fedmq.atomic import disk_failures
from fedmq.errors import ConfigError, StorageError
from fedmq.protocol.fields import WORKER_NAME
from fedmq.protocol.trainer_link import Source
from fedmq.protocol.worker_events import Exit
from fedmq.runtime.local import num_cores
from fedmq.runtime.memory import keep_freed_memory
from fedmq.runtime.stop_signals import stop_signals
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.storage.personal import folders
from fedmq.storage.run_lock import RunLock
from fedmq.transport.addresses import is_loopback
from fedmq.transport.keys import KeyPair, PublicKey, read_pair, read_public
from fedmq.transport.zeromq import ZmqWorkerTransport


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
    key: str | None,
    server_key: str | None,
    parent_fd: int | None,
) -> tuple[int, str]:
    """Run a worker; returns its exit code and the reason in words.

    Raises:
      ConfigError: the options cannot be used.
      StorageError: its folders cannot be written, or another worker has them.
      KeyRefused, ServerKeyMismatch: the coordinator does not let it in, or is another.
    """
    lock, keys = None, read_keys(key, server_key)
    if keys is not None:
        # Whoever has the key is that worker: another name would be refused.
        name = name or keys[0].public.name
    if name is None:
        name, lock = _free_name(default_name(socket.gethostname(), data, clients))
    if not re.fullmatch(WORKER_NAME, name):
        raise ConfigError(f"--name {name!r}: at most 63 letters, digits, dots, dashes and underscores, no leading dot")
    given, loopback = sources(data, clients), is_loopback(connect)
    folder = Path(work_dir or f"fedmq_{name}")
    logs = Path(log_dir) if log_dir else folder
    if log_dir is not None:
        _make_logs(logs)
    options = WorkerOptions(
        name=name,
        sources=given,
        device=device,
        work_dir=folder,
        log_file=logs / f"{name}.log",
        log_dir=logs,
        num_threads=num_threads or num_cores(),
        model=model,
        cache_dir=cache_dir,
        loopback=loopback,
        parent_fd=parent_fd,
    )
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with ExitStack() as ending, disk_failures(folder):
        # A second one in it would throw away what the first is about to offer.
        ending.callback(RunLock(folder, "worker", "--work-dir").release)
        crash_points.arm("worker")
        agent = WorkerAgent(options, ZmqWorkerTransport(connect, keys))
        for number in stop_signals():
            signal.signal(number, lambda n, _: agent.leave(f"interrupted by {signal.Signals(n).name}"))
        end: Exit = agent.run()
    if lock is not None:
        lock.close()
    own = (
        "" if end.code else "".join(f"\n{name}'s own model: {path}" for name, path in folders(agent.own_models).items())
    )
    return end.code, end.reason + own


def _make_logs(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StorageError(f"{folder} cannot be made or written ({error.strerror}): give another --log-dir") from None


def read_keys(key: str | None, server_key: str | None) -> tuple[KeyPair, PublicKey] | None:
    """This worker's pair and the coordinator's public key.

    Raises:
      ConfigError: one of them is missing or cannot be used.
    """
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise ConfigError(
            "--key NAME.key and --server-key FILE.pub go together: this worker's own key, and the coordinator's"
        )
    return read_pair(Path(key)), read_public(Path(server_key))


def default_name(host: str, data: Sequence[str], clients: Sequence[str]) -> str:
    """The same name each time for the same host and data, so that a restarted worker finds its outbox again.

    Example:
      >>> default_name("lab1.example.org", ["north.csv"], ["north"])
      'lab1-north'
      >>> default_name("lab1", ["shards/client_0", "shards/test"], [])
      'lab1-client_0-test'
    """
    parts = [host.partition(".")[0][:24] or "worker", *(clients or [Path(path).name for path in data])]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts)).lstrip(".")[:56] or "worker"


def _free_name(name: str) -> tuple[str, IO[bytes]]:
    """`name`, or name-2, name-3 ..., the first that no live worker of this host has; the open file is the claim."""
    for k in itertools.count(1):
        candidate = name if k == 1 else f"{name}-{k}"
        # Not in the work dir: two workers of one name would disturb each other from any two folders.
        lock = open(Path(tempfile.gettempdir(), f"fedmq-{os.getuid()}-{candidate}.lock"), "ab")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return candidate, lock
    raise AssertionError("unreachable: count() has no end")


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
