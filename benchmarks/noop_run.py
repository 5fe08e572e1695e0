"""One run of real processes on loopback whose trainers compute nothing: started, killed and ended by a benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fedmq.errors import StorageError
from fedmq.storage.journal import Journal

HERE = Path(__file__).resolve().parent
PATIENCE_S = 120.0


class NoopRun:
    """The processes of one run in a folder of its own; whatever still runs at the end of the block is killed.

    Args:
      folder: made.
      federated: that section of the config.
      launcher: what stands before the module in every command line.
    """

    def __init__(self, folder: Path, federated: dict[str, Any], launcher: Sequence[str] = ("-m",)) -> None:
        folder.mkdir()
        self.folder, self.told = folder, folder / "told"
        self._launcher = launcher
        self._processes: list[subprocess.Popen[Any]] = []
        places = {"output_dir": str(folder / "run"), "log_dir": str(folder / "logs")}
        (folder / "config.json").write_text(json.dumps({**places, "federated": federated}))

    def __enter__(self) -> NoopRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            self.kill(process)

    def coordinator(self, address: str = "tcp://127.0.0.1:0", *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """The process, and the address at which it listens."""
        command = ("fedmq", "coordinator", str(self.folder / "config.json"), "--bind", address, *arguments)
        process = self._start(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening on"):
                return process, line.split()[2].rstrip(":")
        raise SystemExit(f"the coordinator ended; its log is in {self.folder}")

    def worker(self, address: str, name: str, **options: Any) -> subprocess.Popen[Any]:
        """An agent; `options` as in noop_trainer.py."""
        environment = {"FEDMQ_NOOP": json.dumps({"evaluates": False, "told": str(self.told), **options})}
        return self._start(
            ("noop_worker", address, name, str(self.folder / name)), stderr=subprocess.DEVNULL, env=environment
        )

    def _start(self, command: Sequence[str], env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[Any]:
        path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path} | (env or {})
        process = subprocess.Popen([sys.executable, *self._launcher, *command], env=environment, **how)
        self._processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """SIGKILL to it and to its children, which are a worker's trainer."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except FileNotFoundError:
            children = []
        if process.poll() is None:
            process.kill()
            process.wait()
        for child in children:
            # A trainer that sees the end of its pipe may be gone first.
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def ended_well(self, coordinator: subprocess.Popen[str]) -> None:
        """Wait for the run's end."""
        assert coordinator.stdout is not None
        coordinator.stdout.read()
        if coordinator.wait(PATIENCE_S):
            raise SystemExit("the run failed")

    def begun(self) -> list[tuple[float, str]]:
        """The trainings that have begun: when (seconds since 1970), which task."""
        lines = self.told.read_text().splitlines() if self.told.is_file() else []
        return [(float(at), task) for at, task in map(str.split, lines)]

    def rounds(self) -> list[dict[str, Any]]:
        """What run.db says of the rounds; nothing before there is one."""
        try:
            journal = Journal.open(self.folder / "run" / "run.db", read_only=True)
        except StorageError:
            return []
        try:
            return journal.rounds()
        finally:
            journal.close()


def wait_for(condition: Callable[[], Any]) -> Any:
    """Ask every few milliseconds until the answer is true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() >= deadline:
            raise SystemExit("what was waited for did not come")
        time.sleep(0.005)
    return found
