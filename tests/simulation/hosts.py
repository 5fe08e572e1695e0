"""The hosts of the cluster: each runs the product's own process, turn by turn, until it is killed, and starts it again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from disk import Disk, Killed, Tree
from fake_trainer import FakeTrainer
from network import Line, Listener, WorkerSocket
from witness import Violation

from fedmq.errors import FedmqError
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol import worker_events as we
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.storage.run_folder import OpenRun, open_run

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
            self._left = self.disk.survivors(None)
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
        if getattr(self, "_power", False):
            self.disk.settle()
        self.again_after(self.cluster.dice.uniform(0.5, 8.0))


class CoordinatorHost(Host):
    """Runs `Coordinator`, as `fedmq run --resume` does."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._open: OpenRun | None = None
        self._coordinator: Coordinator | None = None
        self._listener: Listener | None = None
        self._seen = -1
        self.asked_to_stop: str | None = None
        super().__init__(cluster, "coordinator", folder)

    def start(self) -> None:
        folder = self.disk.root / "run"
        self._open = open_run(folder, "{}", "{}", resume=True, overwrite=False)
        journal = self._open.journal
        if self._open.finished:
            server = self.cluster.shape.server(folder, journal)
        else:
            self.cluster.witness.started(int(journal.require("epoch")))
            server = self.cluster.shape.server(folder, journal)
            self.cluster.witness.looks(journal, server.blobs)
            state = self.cluster.shape.state(server, self.cluster.clock.monotonic())
            _check(state)
            self._listener = Listener(self.cluster.network)
            self._coordinator = Coordinator(state, server, self._listener, self.cluster.shape.spec, self)
            return
        self._done(server)

    def turn(self) -> bool:
        coordinator, listener = self._coordinator, self._listener
        assert coordinator is not None and listener is not None and self._open is not None
        coordinator.turn(lambda: self.asked_to_stop)
        changes = self._open.journal._db.total_changes
        if changes != self._seen:
            self._seen = changes
            self.cluster.witness.looks(self._open.journal)
        if coordinator.finish is None:
            return listener.pending
        self.cluster.log(f"coordinator: {coordinator.finish}")
        if coordinator.finish.outcome == "failed":
            raise Violation(f"I11: the run failed: {coordinator.finish.reason}")
        self.asked_to_stop = None
        listener.blocking = True
        coordinator.close()
        if coordinator.finish.outcome == "done":
            self._done(coordinator.server)
        else:
            self.release()
            self.up = False
            self.again_after(self.cluster.dice.uniform(0.5, 8.0))
        return False

    def _done(self, server: Any) -> None:
        server.write_derived()
        self.cluster.ended(server)
        self.release()
        self.up = False

    def release(self) -> None:
        if self._listener is not None:
            self._listener.crash()
        if self._coordinator is not None:
            self._coordinator._intake.close()
        if self._open is not None:
            self._open.journal.close()
            self._open.lock.release()
        self._open = self._coordinator = self._listener = None

    # --- its view ------------------------------------------------------------------------------

    def note(self, level: str, text: str) -> None:
        self.cluster.log(f"coordinator: {text}")

    def progress(self, state: Any, now: float) -> None:
        self.awaited = f"{state.phase.value}, {state.awaited(now)}" if self.cluster.calm else ""

    def committed(self, row: dict[str, Any]) -> None:
        self.cluster.log(f"coordinator: round {row['round']} is {row['digest'][:12]}")

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        pass


class WorkerHost(Host):
    """Runs `WorkerAgent`, with a trainer that is simulated."""

    def __init__(self, cluster: Cluster, name: str, clients: list[str], evaluates_test: bool, folder: Path) -> None:
        self.clients, self.evaluates_test = clients, evaluates_test
        self.agent: WorkerAgent | None = None
        self._socket: WorkerSocket | None = None
        super().__init__(cluster, name, folder)

    @property
    def trainer(self) -> FakeTrainer | None:
        """The trainer that the agent has now."""
        return None if self.agent is None else self.agent._trainer  # type: ignore[return-value]

    def owed(self) -> set[str]:
        """Tasks that the agent waits for."""
        return set() if self.agent is None else set(self.agent.state.hand.owed)

    def lines(self) -> list[Line]:
        """Of its socket."""
        return [] if self._socket is None else list(self._socket.lines.values())

    def readable(self, fds: Sequence[int]) -> list[int]:
        """Those descriptors of the agent that have something."""
        trainer = self.trainer
        return [fd for fd in fds if trainer is not None and trainer.fd == fd and trainer.readable]

    def start(self) -> None:
        options = WorkerOptions(
            name=self.name,
            sources=(link.Source("shard", None),),
            device="cpu",
            work_dir=self.disk.root / "work",
            log_file=self.disk.root / "log",
            log_dir=None,
            num_threads=1,
        )
        self._socket = WorkerSocket(self.cluster.network, self.name)
        self.agent = WorkerAgent(options, self._socket)
        handle, state = self.agent.state.handle, self.agent.state
        for offer in state.outbox.values():
            self.cluster.witness.offered(offer)

        def witnessed(event: Any, now: float) -> list[Any]:
            if isinstance(event, we.Finished) and isinstance(event.result, m.Offer):
                self.cluster.witness.offered(event.result)
            commands = handle(event, now)
            state.validate()
            for command in commands:
                if isinstance(command, we.Forget):
                    self.cluster.witness.forgotten(command.task, event)
            return commands

        state.handle = witnessed  # type: ignore[method-assign]
        self.agent._start_trainer()

    def turn(self) -> bool:
        agent, socket = self.agent, self._socket
        assert agent is not None and socket is not None
        agent._turn()
        if agent._exit is None:
            return socket.pending
        self.cluster.log(f"{self.name}: {agent._exit}")
        if agent._exit.code not in (0, 130) and not agent._exit.reason.startswith("the trainer"):
            raise Violation(f"I11: {self.name} ended: {agent._exit}")
        socket.close(linger_s=0.5)
        self.release()
        self.up = False
        self.again_after(self.cluster.dice.uniform(0.5, 8.0))
        return False

    def release(self) -> None:
        agent, self.agent = self.agent, None
        if self._socket is not None:
            self._socket.close()
        if agent is not None:
            if agent._trainer is not None:
                agent._trainer.end()
            agent._transfers.close()


def _check(state: Any) -> None:
    """Its invariants are looked at after every event."""
    handle = state.handle

    def checked(event: Any, now: float) -> Any:
        commands = handle(event, now)
        state.validate()
        return commands

    state.handle = checked
