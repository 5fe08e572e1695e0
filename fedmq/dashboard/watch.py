"""A run's folder, read again when it has changed, and only then."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from fedmq.dashboard.columns import run_columns, span_columns
from fedmq.inspection import inspect_run
from fedmq.storage.run_folder import DATABASE
from fedmq.storage.run_lock import RunLock
from fedmq.storage.salvage import open_to_read
from fedmq.storage.timeline import timeline

_TAIL_NBYTES = 64 * 1024


class Watched:
    """What the page asks for. Safe to be called by many threads.

    Args:
      run_dir: of a run that goes on, has ended, or was copied.
      log_dir: of its logs; None = as its config says, relative to the current folder.

    Raises:
      StorageError: the folder holds no run, or nothing of it can be read.
    """

    def __init__(self, run_dir: Path, log_dir: Path | None = None) -> None:
        self._run_dir, self._lock = run_dir, threading.Lock()
        self._read_at: tuple[Any, ...] | None = None
        self._found: dict[str, Any] = {}
        self._json = b""
        self._refresh()
        self._log_dir = Path(self._found["provenance"]["config"].get("log_dir", "")) if log_dir is None else log_dir

    def stamp(self) -> tuple[Any, ...]:
        """Differs whenever the run may have changed; costs two stats and a look at the lock."""
        return (*(_stat(self._run_dir / f"{DATABASE}{suffix}") for suffix in ("", "-wal")), RunLock.held(self._run_dir))

    def run_json(self) -> bytes:
        """The run as columns."""
        with self._lock:
            self._refresh()
            return self._json

    def spans(self, round: int) -> dict[str, list[Any]]:
        """The timeline of one round."""
        journal, _ = open_to_read(self._run_dir / DATABASE)
        try:
            return span_columns(timeline(journal, round), round)
        finally:
            journal.close()

    def logs(self) -> list[str]:
        """The names of the log files."""
        return sorted(path.name for path in self._log_dir.glob("*.log") if path.is_file() and not path.is_symlink())

    def log(self, name: str) -> str | None:
        """The last 64 kB of a log; None where it is none."""
        if name not in self.logs():
            return None
        with open(self._log_dir / name, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_NBYTES))
            return file.read().decode("utf-8", "replace")

    def _refresh(self) -> None:
        # The stamp is taken first: what is written while we read is read again.
        stamp = self.stamp()
        if stamp != self._read_at:
            self._found = inspect_run(self._run_dir, spans=False)
            self._json = json.dumps(run_columns(self._found), separators=(",", ":")).encode()
            self._read_at = stamp


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    # Who only reads makes an empty log, too.
    return (stat.st_mtime_ns, stat.st_size) if stat.st_size else None
