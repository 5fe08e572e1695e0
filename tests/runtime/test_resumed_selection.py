"""A coordinator that is killed and resumed draws, in each round, the clients that it would have drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from conducting import CONFIG_TEXT, SPEC, Hand, Watcher
from serving import adapter, make_server, offer

from fedmq import rng
from fedmq.algorithms.candidates import Candidate, Draw
from fedmq.algorithms.sampling import uniform
from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.coordinator import Coordinator
from fedmq.transport.memory import MemoryCoordinatorTransport

#: Found by trial, for the draws that the test wants.
SEED, ROUNDS = 6, 4


def drawn(round: int, *clients: int) -> list[str]:
    candidates = [Candidate(f"client_{k}") for k in clients]
    return list(uniform()(candidates, Draw(round, 2, rng.derive(SEED, "select", round))))


class Worker(Hand):
    """Trains whatever it is given, at once."""

    def __init__(self, listener: MemoryCoordinatorTransport, name: str, *clients: int) -> None:
        super().__init__(listener, name)
        self.clients = tuple(f"client_{k}" for k in clients)
        self.given: list[str] = []
        self.ready()

    def serve(self) -> None:
        content = raw.encode(adapter(1))
        for message in self.heard():
            for task in message.tasks if isinstance(message, m.Tasks) else ():
                self.given.append(task.task)
                self.made = offer(task.task, content, nonce=task.nonce)
                self.say(self.made)
            if isinstance(message, m.Verdict) and message.code == "UPLOAD":
                self.put(self.made, content)


class Process:
    """A coordinator's process on the run's folder, by which five clients are expected, two of them in each round."""

    def __init__(self, folder: Path) -> None:
        server = make_server(folder, seed=SEED, num_rounds=ROUNDS)
        server.journal.put(run="ab" * 16, epoch="0", secret="s", status="running", config=CONFIG_TEXT)
        self.journal, self.listener, view = server.journal, MemoryCoordinatorTransport(), Watcher()
        state = CoordinatorState(
            RoundPolicy(ROUNDS, cohort=2, quorum=1),
            Timers(start_s=0.05),
            expected=5,
            generates=False,
            progress=server.progress(),
            started_at=time.monotonic(),
        )
        self.coordinator = Coordinator(state, server, self.listener, SPEC, view)

    def until(self, condition: Callable[[], object], *workers: Worker) -> None:
        for _ in range(1000):
            if condition():
                return
            for worker in workers:
                worker.serve()
            self.coordinator.turn()
        raise AssertionError(f"{self.coordinator.state.phase}: {self.coordinator.view.notes}")  # type: ignore[attr-defined]

    def killed(self) -> None:
        self.listener.close()
        self.journal.close()


def test_the_same_clients_are_drawn_after_a_restart(tmp_path: Path) -> None:
    """client_4 is given up before; client_3, whose worker is away since then, is not until it is drawn."""
    rounds = [drawn(1, 0, 1, 2, 3, 4), drawn(2, 0, 1, 2, 3), drawn(3, 0, 1, 2, 3), drawn(4, 0, 1, 2)]
    assert [("client_3" in clients, "client_4" in clients) for clients in rounds[:3]] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    assert "client_4" in drawn(3, 0, 1, 2, 3, 4), "if it were not known that it was given up"

    first = Process(tmp_path)
    most = Worker(first.listener, "w0", 0, 1, 2)
    Worker(first.listener, "w3", 3)
    lost = Worker(first.listener, "w4", 4)
    first.until(lambda: "client_4" in first.coordinator.state.roster.sizes)
    lost.say(m.Goodbye("for good"))
    first.until(lambda: first.journal.rounds(2), most)
    assert first.coordinator.state.roster.gone == {"client_4"}
    first.killed()

    again = Process(tmp_path)
    most = Worker(again.listener, "w0", 0, 1, 2)
    again.until(lambda: again.coordinator.finish, most)
    assert again.coordinator.finish is not None and again.coordinator.finish.outcome == "done"
    assert [row["selected"] for row in again.journal.rounds(1)] == rounds
