"""A host of the cluster: it runs a process of the product, turn by turn, until that is killed, and starts it again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from disk import Disk, Killed, Tree

from fedmq.errors import FedmqError

if TYPE_CHECKING:
    from cluster import Cluster


class Doom(NamedTuple):
    """What will happen to a host, so many durable steps from now; only those of one kind count, if it is given.

    `then` comes to the process that is started after that: some faults need two.
    """

    steps: int
    kind: str = ""
    power: bool = False
    everywhere: bool = False
    error: bool = False
    then: Doom | None = None


class Host:
    """One machine with one process on it, which a supervisor starts again whenever it ends."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.cluster, self.name = cluster, name
        self.role = type(self).__name__.removesuffix("Host").lower()
        self.disk = Disk(folder, self._step)
        self.boot_s = self.wall_s = 0.0
        self.up = self.busy = False
        self.doom: Doom | None = None
        self.paused_until = 0.0
        self._left: Tree | None = None
        self._power = False
        self._alarm = 0
        self.again_after(0.0)

    # --- its process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the process."""
        raise NotImplementedError

    def turn(self) -> bool:
        """One turn; whether there is more to do at once."""
        raise NotImplementedError

    def release(self) -> None:
        """What the kernel does for a process that is no more."""
        raise NotImplementedError

    def again_after(self, seconds: float) -> None:
        """The supervisor starts the process."""

        def start() -> None:
            if not self.up and not self.cluster.over:
                self.up = True
                self.cluster.log(f"{self.name} starts")
                self.run(self.start)
                self.wake()

        self.cluster.after(seconds, start)

    def wake(self, seconds: float = 0.0) -> None:
        """There is something to do. The process may be slow to notice."""
        at = max(self.cluster.now + seconds + self.cluster.dice.uniform(0, 0.01), self.paused_until)
        if self._alarm and self._wakes_at <= at:
            return
        self._alarm = self.cluster.number()
        self._wakes_at = at
        self.cluster.after(at - self.cluster.now, self._woken, self._alarm)

    def _woken(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._alarm = 0
        if not self.up or self.busy:
            return
        if self.paused_until > self.cluster.now:
            self.wake()
            return
        more: list[bool] = []
        self.run(lambda: more.append(self.turn()))
        if self.up:
            self.wake(0.0 if more and more[0] else self.cluster.dice.uniform(0.1, 0.3))

    def run(self, what: Callable[..., None], *args: Any) -> None:
        """Let this host's code run; it may die in it."""
        outer, self.busy = self.cluster.acting, True
        self.cluster.act(self)
        try:
            what(*args)
        except Killed:
            pass
        except (OSError, FedmqError):
            if self.doom is None or not self.doom.error:
                raise
            # The process ends with an error of its disk; a service manager starts it again.
            self._left, self._power = self.disk.survivors(None), False
        finally:
            self.busy = False
            self.cluster.act(outer)
        if self._left is not None:
            self._buried()

    # --- how it dies ---------------------------------------------------------------------------

    def _step(self, what: str) -> None:
        """The process is at a step that makes something durable."""
        if self.doom is None or self._left is not None or not what.endswith(self.doom.kind):
            return
        self.doom = self.doom._replace(steps=self.doom.steps - 1)
        if self.doom.steps > 0:
            return
        if self.doom.error:
            if what == "before fsync":
                self.cluster.happens(f"{self.role}: fsync fails")
                raise OSError(errno.EIO, "simulated")
            return
        self.cluster.happens(f"{self.role}: {'power cut' if self.doom.power else 'killed'} {what}")
        if self.doom.everywhere:
            self.cluster.blackout()
        else:
            self.kill(self.doom.power)
        raise Killed

    def kill(self, power: bool) -> None:
        """The process dies now; with `power`, the whole machine."""
        if not self.up or self._left is not None:
            return
        self.cluster.log(f"{self.name} {'loses power' if power else 'is killed'}")
        self._left = self.disk.survivors(self.cluster.dice if power else None)
        if power:
            self.boot_s = self.cluster.dice.uniform(0, 1e6) - self.cluster.now
        self._power = power
        if not self.busy:
            self._buried()

    @property
    def doomed(self) -> bool:
        """Whether it was killed while its code waits for something."""
        return self._left is not None

    def _buried(self) -> None:
        left, self._left, self.up = self._left, None, False
        self.doom = None if self.doom is None else self.doom.then
        assert left is not None
        self.release()
        self.disk.abandon()
        self.disk.restore(left)
        if self._power:
            self.disk.settle()
        self.again_after(self.cluster.dice.uniform(0.5, 8.0))
