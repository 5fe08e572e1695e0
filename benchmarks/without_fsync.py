"""Run a module of fedmq, or noop_worker, with nothing made durable: python without_fsync.py MODULE ARGUMENTS.

For measuring what durability costs: fsync does nothing in this process, nor does SQLite ask for it.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from fedmq.storage.journal import Journal


def main() -> None:
    os.fsync = lambda fd: None
    opened = Journal.open.__func__  # type: ignore[attr-defined]

    def open_volatile(cls: type[Journal], path: Path, read_only: bool = False) -> Journal:
        journal: Journal = opened(cls, path, read_only)
        journal._db.execute("PRAGMA synchronous=OFF")
        return journal

    Journal.open = classmethod(open_volatile)  # type: ignore[assignment, method-assign]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
