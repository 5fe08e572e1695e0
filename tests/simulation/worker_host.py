"""A worker's host: runs `WorkerAgent`, with a trainer that is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fake_trainer import FakeTrainer
from hosts import Host
from network import Line, WorkerSocket
from violation import Violation

from fedmq.errors import KeyRefused
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol import worker_events as we
from fedmq.runtime.worker import WorkerAgent, WorkerOptions

if TYPE_CHECKING:
    from cluster import Cluster


class WorkerHost(Host):
    """Starts an agent, gives it its turns, and looks at what its state machine does."""

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
        try:
            agent._turn()
        except KeyRefused as error:
            agent._exit = we.Exit(error.exit_code, str(error))
        self.cluster.witness.budget.of_worker(self.name, agent)
        if agent._exit is None:
            return socket.pending
        self.cluster.log(f"{self.name}: {agent._exit}")
        sent_away = agent._exit.code == KeyRefused.exit_code and self.name in self.cluster.network.door.known
        over = self.cluster.shape.rounds in self.cluster.witness.committed
        well = (0, 6, 130) if over else (0, 130)
        if agent._exit.code not in well and not sent_away and not agent._exit.reason.startswith("the trainer"):
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
