"""A coordinator on the memory transport, and workers whose every message a test writes by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import adapter, make_server, offer

from fedmq.codec import raw
from fedmq.config import get_default_config
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.frames import Codec
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.screening import UpdateLimits
from fedmq.transport.base import Incoming, Plane
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport

UP, DOWN = Codec(m.TO_COORDINATOR), Codec(m.TO_WORKER)
DATA_UP = Codec(m.DATA_TO_COORDINATOR)
SPEC = get_default_config().to_run_spec()
CONFIG_TEXT = json.dumps(get_default_config().to_dict())
Script = Iterator[None]


class Watcher:
    """A view that only remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, level: str, text: str) -> None:
        self.notes.append(text)

    def progress(self, live: dict[str, Any]) -> None:
        pass

    def committed(self, row: dict[str, Any]) -> None:
        pass

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        pass


class Hand:
    """A worker by hand."""

    def __init__(self, listener: MemoryCoordinatorTransport, name: str, boot: str = "a") -> None:
        self.link = MemoryWorkerTransport(listener)
        self.link.dial_data(1)
        self.name, self.boot, self.clients = name, boot * 32, ("client_1",)

    def say(self, *messages: Any) -> None:
        for message in messages:
            assert self.link.send("control", UP.encode(message))

    def heard(self) -> list[Any]:
        """Control messages since the last look."""
        received = self.link.receive(0.0).messages
        return [DOWN.decode(r.frames[0]) for r in received if r.plane == "control"]

    def hello(self) -> None:
        self.say(m.Hello((m.PROTOCOL_VERSION,), self.name, self.boot))

    def ready(self, running: tuple[str, ...] = (), *outbox: str) -> None:
        self.hello()
        clients = tuple(m.HostedClient(client, 10, 100, 0, "ab" * 32) for client in self.clients)
        self.say(m.Ready(clients, False, "cd" * 32, 1, 2, "cpu", running, outbox))

    def inject(self, *frames: bytes, plane: Plane = "control", owner: str = "") -> None:
        """A message of any frames, also of a link with a key; no transport of ours would send it."""
        peer = self.link._peers[plane]
        assert self.link._listener.inbox.put(Incoming(plane, peer, frames, owner))

    def put(self, update: m.Offer, content: bytes) -> None:
        assert self.link.send("data", DATA_UP.encode(m.Put(update.nonce, update.blob.digest, 0)), content)


class Bench:
    """A coordinator of one round with one client or several, and its listener."""

    def __init__(
        self, folder: Path, clients: int = 1, listener: Any = None, view: Any = None, generates: bool = False
    ) -> None:
        self.server = make_server(folder, num_rounds=1, limits=UpdateLimits(1000.0, 384))
        self.server.journal.put(run="ab" * 16, epoch="0", secret="s", status="running", config=CONFIG_TEXT)
        self.listener, self.view = listener or MemoryCoordinatorTransport(), view or Watcher()
        policy = RoundPolicy(1, cohort=clients, quorum=clients)
        # A machine that is held up must not count as a worker that is: nobody here beats by himself.
        timers = Timers(suspect_s=600.0, dead_s=600.0)
        state = CoordinatorState(policy, timers, expected=clients, generates=generates, started_at=time.monotonic())
        self.coordinator = Coordinator(state, self.server, self.listener, SPEC, self.view)

    def play(self, script: Script) -> None:
        """Serve; at each turn the script goes on to its next yield, with all that it sent before answered."""

        self.coordinator.run(lambda: next(script, "the script is over"))  # type: ignore[arg-type, return-value]
        assert next(script, "over") == "over", f"ended in the middle of the script: {self.coordinator.finish}"

    def hand(self, name: str = "w0", **fields: Any) -> Hand:
        return Hand(self.listener, name, **fields)

    def close(self) -> None:
        """Without a word to the workers: some of them would be waited for in vain."""
        self.coordinator._intake.close()
        self.coordinator.transport.close(linger_s=0.0)


def task_in(messages: list[Any]) -> m.Task:
    """The one task among them."""
    (task,) = [task for message in messages if isinstance(message, m.Tasks) for task in message.tasks]
    return task


def verdicts(messages: list[Any]) -> list[str]:
    return [message.code for message in messages if isinstance(message, m.Verdict)]


def first_adapter(hand: Hand) -> Script:
    """Join, and make the first adapter."""
    hand.ready()
    yield
    task, content = task_in(hand.heard()), raw.encode(adapter(0))
    update = offer(task.task, content, nonce=task.nonce)
    hand.say(update)
    yield
    assert verdicts(hand.heard()) == ["UPLOAD"]
    hand.put(update, content)
    yield


def training(hand: Hand) -> Iterator[None]:
    """The same, and take the training of round 1: it is left in `hand.task`."""
    yield from first_adapter(hand)
    messages = hand.heard()
    assert verdicts(messages) == ["ACCEPTED"]
    hand.task = task_in(messages)  # type: ignore[attr-defined]
    assert hand.task.task == "train-1-client_1-0"  # type: ignore[attr-defined]


def update_of(hand: Hand, **fields: Any) -> tuple[m.Offer, bytes]:
    content = raw.encode(adapter(1))
    task: m.Task = hand.task  # type: ignore[attr-defined]
    return offer(task.task, content, **{"nonce": task.nonce} | fields), content


def standing(bench: Bench) -> Any:
    """Where the run stands, in the state machine and on disk, without what is only for people or moves with time."""
    state, roster = bench.coordinator.state, bench.coordinator.state.roster
    workers = {
        name: replace(w, last_heard=0.0, progressed_at=0.0, phase="", pause_s=0.0, working_since=None)
        for name, w in roster.workers.items()
    }
    seen = (roster.sizes, roster.hosts, roster.held_out, roster.test_seen, roster.gone)
    machine = (
        state.phase,
        state.version,
        state.clock.opened_at,
        state.clock.draw,
        dict(state.trainings.accepted),
        state.evaluations.unscored,
        roster.jobs,
        workers,
        seen,
    )
    database = bench.server.journal._db
    meta = dict(map(tuple, database.execute("SELECT * FROM meta")))
    for name in ("live", "quarantined"):
        meta.pop(name, None)
    tables = ("rounds", "updates", "evaluations", "generations")
    rows = [list(map(tuple, database.execute(f"SELECT * FROM {name}"))) for name in tables]  # noqa: S608
    blobs = sorted(path.name for path in bench.server.blobs.folder.iterdir() if path.suffix != ".part")
    return deepcopy((machine, meta, rows, blobs))


def finishing(hand: Hand, content: bytes = raw.encode(adapter(1)), **fields: Any) -> Script:
    """Bring an update for the training in hand; its bytes are asked for if they are not here by another's hand."""
    task: m.Task = hand.task  # type: ignore[attr-defined]
    update = offer(task.task, content, **{"nonce": task.nonce} | fields)
    hand.say(update)
    yield
    hand.said = hand.heard()  # type: ignore[attr-defined]
    if verdicts(hand.said) == ["UPLOAD"]:  # type: ignore[attr-defined]
        hand.put(update, content)
        yield
        hand.said = hand.heard()  # type: ignore[attr-defined]


def notes_of(bench: Bench, codes: set[str]) -> list[str]:
    return [note for note in bench.view.notes if any(f"refused: {code}" in note for code in codes)]


def besides(bench: Bench, act: Callable[[Hand, Hand], Script], codes: set[str]) -> None:
    """Let `act` happen while w0 trains: it gives one of these codes, if any is named, and costs nothing else."""
    honest, bad = bench.hand(), bench.hand("bad", boot="b")

    def script() -> Script:
        yield from training(honest)
        bad.hello()
        yield
        before = standing(bench)
        yield from act(honest, bad)
        assert standing(bench) == before
        assert bool(notes_of(bench, codes)) == bool(codes), bench.view.notes
        yield from finishing(honest)

    bench.play(script())
    assert bench.server.journal.last_committed() == 1
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w0"]
