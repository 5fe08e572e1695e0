"""`fedmq` on a disk whose fsync fails with EIO from the n-th call on: python failing_fsync.py N ARGUMENTS."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Callable


def failing(fail_from: int) -> Callable[[int], None]:
    calls, fsync = itertools.count(1), os.fsync

    def sync(fd: int) -> None:
        if next(calls) >= fail_from:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    return sync


if __name__ == "__main__":
    os.fsync = failing(int(sys.argv.pop(1)))
    from fedmq.cli import main

    main(prog_name="fedmq")
