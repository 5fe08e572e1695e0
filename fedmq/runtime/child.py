"""The agent's handle on its trainer process: start, talk, kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedmq.protocol import trainer_link as link
from fedmq.runtime.pipe import Pipe, PipeClosed

#: A trainer looks whether it should stop between two steps; one that has not for so long is killed.
HALT_GRACE_S = 30.0


class TrainerProcess:
    """A running trainer. It is started by exec, so nothing of the agent (sockets, threads) is in it.

    Args:
      command: the program, to which --read-fd, --write-fd and --num-threads are added.
      num_threads: CPU threads of the trainer.
      log_file: where its standard output and error go.
    """

    def __init__(self, command: list[str], num_threads: int, log_file: Path) -> None:
        child_read, agent_write = os.pipe()
        agent_read, child_write = os.pipe()
        # Set before torch loads: some of its libraries look at the environment only.
        environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "TOKENIZERS_PARALLELISM": "false"}
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file, "ab") as output:
            self._process = subprocess.Popen(
                [*command, f"--read-fd={child_read}", f"--write-fd={child_write}", f"--num-threads={num_threads}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(child_read, child_write),
                env=environment,
                # Ctrl-C goes to the agent, which ends its trainer in order.
                start_new_session=True,
            )
        os.close(child_read)
        os.close(child_write)
        self._halted_at: float | None = None
        self._pipe = Pipe(agent_read, agent_write, link.TO_AGENT, link.TO_TRAINER)

    @property
    def fd(self) -> int:
        """Readable when the trainer has something to say, or is gone."""
        return self._pipe.read_fd

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Give it a message; a trainer that is gone is noticed by `receive`."""
        try:
            self._pipe.send(message)
        except PipeClosed:
            return

    def halt(self) -> None:
        """Tell it to stop what it does."""
        self.send(link.Halt())
        self._halted_at = self._halted_at or time.monotonic()

    def enforce_halt(self, wanted: bool) -> bool:
        """Kill it if it was told to stop, is still to stop (`wanted`), and has not: whether it was.

        At once with SIGKILL: it has nothing to put away, all that it writes appears whole or not at all.
        """
        if not wanted:
            self._halted_at = None
        if self._halted_at is None or time.monotonic() - self._halted_at < HALT_GRACE_S:
            return False
        self._halted_at = None
        self._process.kill()
        return True

    def receive(self) -> list[Any]:
        """Its messages. PipeClosed when it is gone."""
        return self._pipe.receive()

    def end(self) -> str:
        """Kill it if it still runs; returns how it ended, in words."""
        code = self._process.poll()
        if code is None:
            self._process.kill()
            code = self._process.wait()
        self._pipe.close()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


#: The trainer that trains; benchmarks and tests name others.
TRAINER = [sys.executable, "-m", "fedmq.runtime.trainer_process"]
