"""The coordinator's handle on its gateway process: start, talk, end."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from typing import IO

from fedmq.transport.channel import Channel, ChannelClosed
from fedmq.transport.listening import Listening

#: For it to end, beside what it was given to send its last messages.
_END_S = 1.0
#: For it to be gone when it was killed.
_DIE_S = 1.0
#: For it to say that it is ready.
START_S = 60.0
#: One that is silent for so long is asked whether it is there.
ASK_S = 1.0
#: After the question, without any sign of life; then it is killed.
HANG_S = 5.0
_BATCH = 32
#: Killed, and not gone in time: asked again when another is started, so that no zombies stay.
_dying: list[subprocess.Popen[bytes]] = []


class GatewayChild:
    """A running gateway. It is started by exec, so nothing of the coordinator (journal, threads) is in it.

    Args:
      command: the program, to which the descriptors of the channel and of the listening sockets are added.
      listening: what it accepts from.
    """

    def __init__(self, command: list[str], listening: Listening) -> None:
        _dying[:] = [process for process in _dying if process.poll() is None]
        ours, its = socket.socketpair()
        fds = (its.fileno(), listening.control.fileno(), listening.data.fileno())
        options = [f"--{name}-fd={fd}" for name, fd in zip(("channel", "control", "data"), fds, strict=True)]
        # A file, as a pipe that nobody reads may fill.
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with its:
            self._process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=fds,
                # Ctrl-C goes to the coordinator, which needs the gateway to part from its workers.
                start_new_session=True,
            )
        self.channel, self.started_at = Channel(ours), time.monotonic()
        self._signs, self._silent_s, self._asked, self._hung = 0, 0.0, False, ""

    def waited(self, seconds: float) -> None:
        """We have listened for so long, and nothing came."""
        self._silent_s += seconds

    def check(self) -> None:
        """Ask one that is silent for a sign of life, and kill one that gives none.

        Only waits count that ran to their end. So a coordinator that was busy, or stopped, takes its own pause for
        nobody's silence, and reads what came meanwhile before it judges.

        Raises:
          ChannelClosed: it was killed.
        """
        if self._signs != self.channel.signs:
            self._signs, self._silent_s, self._asked = self.channel.signs, 0.0, False
        elif self._asked and self._silent_s >= (limit_s := HANG_S if self._signs else START_S):
            self._hung = f"gave no answer for {limit_s:.0f} s and "
            self._process.kill()
            raise ChannelClosed("it hangs")
        elif not self._asked and self._silent_s >= ASK_S:
            self._silent_s, self._asked = 0.0, True
            self.channel.put("control", b"ask")
            self.channel.flush()

    def part(self, linger_s: float) -> None:
        """Let it send what is queued, and end."""
        deadline = time.monotonic() + linger_s + _END_S
        self.channel.put("data", b"close", str(linger_s).encode())
        try:
            while self.channel.unsent and (left := deadline - time.monotonic()) > 0:
                self.channel.wait(left)
                self.channel.read(_BATCH)
                self.channel.flush()
        except ChannelClosed:
            pass
        self.end(max(0.0, deadline - time.monotonic()))

    def end(self, patience_s: float = _END_S) -> tuple[int | None, str, str]:
        """Kill it unless it ends in time; its exit code, how it ended, and its last line.

        No code: it waits for a disk or a driver, and is gone when that answers. Nobody is held up by it until then.
        """
        code = self._code(patience_s)
        if code is None:
            self._process.kill()
            code = self._code(_DIE_S)
        self.channel.close()
        with self._words as words:
            words.seek(0)
            said = words.read().decode(errors="replace").splitlines()
        if code is None:
            _dying.append(self._process)
            how = "does not end though it was killed"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return code, self._hung + how, said[-1] if said else ""

    def _code(self, patience_s: float) -> int | None:
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None
