"""Where a process can be made to die, as by a power cut: right before and right after each durable step.

A test sets FEDMQ_CRASH_AT to ROLE:N:FILE in the environment. Of all processes of that role (coordinator, worker,
trainer), the first that comes to its N-th point makes FILE and is gone, as by SIGKILL; those that find FILE live on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "FEDMQ_CRASH_AT"
_left = 0
_witness: Path | None = None


def arm(role: str) -> None:
    """Say what this process is. Without the variable, or with another role in it, nothing will happen."""
    global _left, _witness
    wanted, _, rest = os.environ.get(_VARIABLE, "").partition(":")
    if wanted == role:
        count, _, file = rest.partition(":")
        _left, _witness = int(count), Path(file)


@contextmanager
def durable_step() -> Iterator[None]:
    """Around what makes something durable: an fsync, a rename, a commit."""
    _pass()
    yield
    _pass()


def _pass() -> None:
    global _left
    if _witness is None:
        return
    _left -= 1
    if _left == 0:
        try:
            _witness.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
