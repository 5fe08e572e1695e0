"""The no-op trainer, but while one of its trainings waits at FEDMQ_GATE, a FIFO, it holds its interpreter.

So does a C extension that computes without letting go of it. Another thread adds a byte to the file FEDMQ_TICKS every
10 ms, whenever it can run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import noop_trainer

from fedmq.protocol import trainer_link as link
from fedmq.runtime.pipe import Pipe

#: Unlike CDLL, and all of `os`, it keeps the interpreter's lock while C waits.
LIBC = ctypes.PyDLL(None)


class HoldingPipe(Pipe):
    """Before it tells of an update, it holds."""

    def send(self, message: Any) -> None:
        if isinstance(message, link.Trained) and message.task.startswith("train"):
            super().send(link.Stepped(3, 10))
            hold(os.environ["FEDMQ_GATE"])
        super().send(message)


def hold(gate: str) -> None:
    """From the moment at which the gate is reached until it is opened."""
    gate_fd = LIBC.open(gate.encode(), os.O_RDONLY)
    LIBC.read(gate_fd, ctypes.create_string_buffer(1), 1)
    os.close(gate_fd)


def tick(ticks: int) -> None:
    while True:
        LIBC.write(ticks, b".", 1)
        time.sleep(0.01)


if __name__ == "__main__":
    # Nobody has the lock taken away in between two calls either.
    sys.setswitchinterval(1000.0)
    ticks = os.open(os.environ["FEDMQ_TICKS"], os.O_WRONLY | os.O_CREAT)
    threading.Thread(target=tick, args=(ticks,), daemon=True).start()
    noop_trainer.Pipe = HoldingPipe
    noop_trainer.main()
