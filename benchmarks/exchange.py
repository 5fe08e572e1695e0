"""What one exchange is: the same for fedmq's transfer code and for plain pyzmq."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple


class Exchange(NamedTuple):
    """A coordinator and its workers, each a process, that pass bytes.

    Attributes:
      workers: processes.
      nbytes: of what goes down to each, and of what comes up from each.
      up: whether something comes up.
      keys: whether the links are CURVE.
      times: exchanges; one more before them is not counted.
      checks: of the plain script: "hashed" computes the SHA-256 of what arrives, "kept" also makes a file of it.
      without: what the process is to leave out, of "fsync" and "sha256".
    """

    workers: int
    nbytes: int
    up: bool
    keys: bool
    times: int
    checks: Literal["", "hashed", "kept"] = ""
    without: tuple[str, ...] = ()


class Measured(NamedTuple):
    """What one coordinator says at its end.

    Attributes:
      seconds: of each exchange.
      before_mb, peak_mb: VmHWM before the first exchange and after the last, in 10^6 bytes.
    """

    seconds: list[float]
    before_mb: float
    peak_mb: float


def measure(script: Path, exchange: Exchange, folder: Path) -> Measured:
    """Run `script` as the coordinator of an exchange."""
    folder.mkdir()
    command = [sys.executable, str(script), "coordinator", json.dumps(exchange), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{script.name} failed on {exchange}")
    return Measured(*json.loads(done.stdout))


def play(roles: dict[str, Callable[..., object]]) -> None:
    """In the process that `measure` or `start_workers` started: do what the command line says."""
    role, exchange, *arguments = sys.argv[1:]
    roles[role](Exchange(*json.loads(exchange)), *arguments)


def start_workers(exchange: Exchange, *arguments: object) -> list[subprocess.Popen[bytes]]:
    """Start this script again, as each worker; the worker's number comes first among its arguments."""
    command = [sys.executable, sys.argv[0], "worker", json.dumps(exchange)]
    return [subprocess.Popen([*command, str(k), *map(str, arguments)]) for k in range(exchange.workers)]


def finish(workers: Sequence[subprocess.Popen[bytes]], seconds: list[float], before_mb: float) -> None:
    """End the workers, and say what was measured. The first exchange also made the connections."""
    after_mb = peak_mb(workers)
    for worker in workers:
        worker.kill()
        worker.wait()
    print(json.dumps(Measured(seconds[1:], before_mb, after_mb)))


def peak_mb(workers: Sequence[subprocess.Popen[bytes]]) -> float:
    """The most memory that this process has held so far, and its children that are no workers, in 10^6 bytes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    pids = {str(os.getpid()), *children} - {str(worker.pid) for worker in workers}
    found = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return sum(int(one[1]) for one in found if one) * 1024 / 1e6
