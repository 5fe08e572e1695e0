"""A disk that fails, as the kernel says it: to whoever asks in this process, Python or SQLite.

python failing_disk.py N CALLS FILES ARGUMENTS is `fedmq ARGUMENTS` whose CALLS (fsync,pwrite64 ...) on FILES (a part of
their names; "" is any) give EIO from its N-th crash point on, or from when it has opened such a file. N of the form
FUNCTION:N counts only the points within that function. What the journal held then is copied to the folder `kept`.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterable

#: The folder, in that of the process, of the journal as it was when the disk began to fail.
KEPT = "kept"
NUMBERS = {
    "x86_64": {"fsync": 74, "fdatasync": 75, "pwrite64": 18, "pread64": 17},
    "aarch64": {"fsync": 82, "fdatasync": 83, "pwrite64": 68, "pread64": 67},
}.get(platform.machine(), {})
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_CALL, _FIRST_ARGUMENT = 0, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse(calls: Iterable[str], fds: Iterable[int] | None = None, error: int = errno.EIO) -> None:
    """From now on this thread gets `error` for these calls, on these descriptors or on any; by a seccomp filter."""

    def step(code: int, value: int, skip: int = 0) -> bytes:
        return struct.pack("HBBI", code, skip, 0, value)

    def among(values: list[int]) -> list[bytes]:
        """Go on where the loaded word is one of these; else the call is let through."""
        ways = [step(_EQUALS, value, skip=len(values) - k) for k, value in enumerate(values)]
        return [*ways, step(_RETURN, _ALLOW)]

    program = [step(_LOAD, _CALL), *among([NUMBERS[call] for call in calls])]
    if fds is not None:
        program += [step(_LOAD, _FIRST_ARGUMENT), *among(list(fds))]
    program.append(step(_RETURN, _ERRNO | error))
    code = ctypes.create_string_buffer(b"".join(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter can be set")


def opened(part: str) -> list[int]:
    """Descriptors of this process's files whose names hold `part`."""
    links = {int(fd): f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    return [fd for fd, link in links.items() if os.path.islink(link) and part in os.readlink(link)]


if __name__ == "__main__":
    from fedmq import crash_points
    from fedmq.cli import main

    (function, _, first), calls, part = sys.argv.pop(1).rpartition(":"), sys.argv.pop(1).split(","), sys.argv.pop(1)
    points, pending = itertools.count(1), [True]

    def keep() -> None:
        """By another process: SQLite's locks end when any descriptor of its file is closed in ours."""
        files = sorted({os.readlink(f"/proc/self/fd/{fd}") for fd in opened("/run.db")})
        os.mkdir(KEPT)
        subprocess.run(["cp", *files, KEPT], check=bool(files), stderr=subprocess.DEVNULL)

    def passed() -> None:
        inside = function in ("", *(frame.name for frame in traceback.extract_stack()))
        fds = opened(part) if part else None
        if inside and next(points) >= int(first) and pending and (fds is None or fds):
            pending.clear()
            keep()
            refuse(calls, fds)

    crash_points._pass = passed
    main(prog_name="fedmq")
