"""`fedmq` on a disk whose fsync fails with EIO from the n-th call on: python failing_fsync.py N ARGUMENTS."""

from __future__ import annotations

import errno
import itertools
import os
import sys

calls, fail_from, fsync = itertools.count(1), int(sys.argv.pop(1)), os.fsync


def failing(fd: int) -> None:
    if next(calls) >= fail_from:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    fsync(fd)


if __name__ == "__main__":
    os.fsync = failing
    from fedmq.cli import main

    main(prog_name="fedmq")
