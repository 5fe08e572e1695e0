"""Real processes for tests: started, watched line by line, and ended by the test that started them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fedmq.cli import main
from fedmq.errors import StorageError
from fedmq.storage.journal import Journal

REPO = Path(__file__).resolve().parents[2]
NOOP_WORKER = REPO / "benchmarks" / "noop_worker.py"
FEDMQ = [sys.executable, "-m", "fedmq"]
#: Nothing here takes nearly as long; a wait that runs out is a failure, never a measurement.
PATIENCE_S = 90.0


def environment(**extra: str) -> dict[str, str]:
    """Of every child: this checkout, offline, on one thread."""
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    fixed = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "COLUMNS": "80"}
    return os.environ | fixed | extra


def fedmq(*arguments: object, cwd: Path, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """`fedmq ARGUMENTS` to its end."""
    return subprocess.run(
        [*FEDMQ, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def here(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has loaded the libraries already: for what ends before it starts others."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(main, list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def keys(folder: Path, *arguments: object) -> str:
    """`fedmq keys ARGUMENTS` in a folder; returns what it printed."""
    done = fedmq("keys", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Running:
    """A process whose output lines can be waited for."""

    def __init__(self, command: list[object], cwd: Path, **env: str) -> None:
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.command = list(map(str, command))
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._open = 2
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.lines]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def _read(self, name: str) -> None:
        stream = getattr(self._process, name)
        for line in stream:
            with self._more:
                self.lines[name].append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._open -= 1
            self._more.notify_all()

    def text(self, name: str) -> str:
        """All that it has said so far on "stdout" or "stderr"."""
        return "\n".join(self.lines[name])

    def wait_line(self, pattern: str, name: str = "stdout") -> re.Match[str]:
        """Wait until a line matches; also one that was there before."""
        deadline = time.monotonic() + PATIENCE_S
        seen = 0
        with self._more:
            while True:
                for line in self.lines[name][seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self.lines[name])
                if not self._open:
                    raise AssertionError(f"it ended without saying {pattern!r}:\n{self.output()}")
                if not self._more.wait(deadline - time.monotonic()):
                    raise AssertionError(f"it has not said {pattern!r}:\n{self.output()}")

    def output(self) -> str:
        return "\n".join(f"--- {name}\n{self.text(name)}" for name in self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, which must find it alive."""
        assert self.running, f"it had ended already:\n{self.output()}"
        self._process.kill()
        assert self._process.wait(PATIENCE_S) == -signal.SIGKILL

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code."""
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def clean_up(self) -> None:
        """Leave nothing behind: the process, what it started, and the pipes."""
        if self.running:  # after its end its id may be another's: a long night uses all there are
            for pid in [*descendants(self.pid), self.pid]:
                kill_pid(pid)
        self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for name in self.lines:
            getattr(self._process, name).close()


def children(pid: int) -> list[int]:
    """Process ids of the children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> list[int]:
    """Process ids of children, theirs, and so on."""
    return [d for child in children(pid) for d in (child, *descendants(child))]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def peak_mb(pid: int) -> float:
    """Peak resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def kill_pid(pid: int) -> None:
    """SIGKILL to a process that may be gone, and wait until it is."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_gone(pid)


def wait_gone(pid: int, timeout_s: float = PATIENCE_S) -> None:
    """Wait until a process, ours or not, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([handle], [], [], timeout_s)
        assert ready, f"process {pid} is still there: {command_line(pid)}"
    finally:
        os.close(handle)


def free_pair() -> int:
    """A port that nobody has, and nobody has the next one either."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
        return port


def listening_ports(pid: int) -> set[int]:
    """TCP ports of 127.0.0.1 on which a process listens."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


class Gate:
    """A FIFO at which a no-op training waits: `reached` returns once one is there, `open` lets it go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._handle: int | None = None

    def reached(self) -> None:
        def writer() -> int | None:
            try:
                return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody reads yet
                    raise
                return None

        self._handle = eventually(writer, f"a training at {self.path.name}")

    def open(self) -> None:
        if self._handle is None:
            self.reached()
        assert self._handle is not None
        # A fresh FIFO first: who comes next must not meet who leaves.
        fresh = self.path.with_suffix(".fresh")
        os.mkfifo(fresh)
        os.replace(fresh, self.path)
        os.close(self._handle)
        self._handle = None


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Ask again and again until the answer is true; the wait between two questions is no part of any test."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        pause.wait(0.02)
    return found


def accepted(run_dir: Path, round: int) -> list[dict[str, Any]]:
    """The updates of a round that its journal holds by now; none before there is a journal."""
    try:
        journal = Journal.open(run_dir / "run.db", read_only=True)
    except StorageError:
        return []
    try:
        return journal.updates(round)
    finally:
        journal.close()


def wait_accepted(run_dir: Path, round: int, clients: set[str]) -> None:
    """Wait until the updates of these clients, and no others, count."""
    eventually(lambda: {row["client"] for row in accepted(run_dir, round)} == clients, f"updates of {clients}")


def digest_of(run_dir: Path) -> str:
    """The run's digest as `fedmq inspect` says it, after checking that the run is done."""
    done = here("inspect", run_dir, "--json", cwd=run_dir.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "done", found
    return str(found["digest"])
