"""A worker in the small world: its process, trainer, disk, and end of the link; the state machine is the real one."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterable
from typing import Any

from examples import example

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.work import EvaluateWork, InitWork, TrainWork
from fedmq.protocol.worker_state import WorkerState

RUN = "ab" * 16


def digest(task: str, together: Iterable[str]) -> str:
    """Training is deterministic: the update of one job is the same, whoever makes it, if its company is."""
    return hashlib.sha256(f"{parse_task(task)[0]} {sorted(together)}".encode()).hexdigest()


def may_forget(task: str, message: Any) -> bool:
    """Whether an update is over, as its worker hears this (I10): accepted is not committed, but for a first adapter."""
    job, _ = parse_task(task)
    match message:
        case m.Verdict(task=of, code=code):
            final = ("LATE", "UNKNOWN_TASK", "INVALID", *(("ACCEPTED", "DUPLICATE") if job.kind == "init" else ()))
            return of == task and code in final
        case m.Cancel(task=of):
            return of == task
        case m.Committed(round=committed):
            return job.round <= committed
        case m.Tasks(tasks=(first, *_)):
            return job.round < first.round or (job.round == first.round and first.client is None)
    return False


def ahead_s(process: str) -> float:
    """By how much the clock that this process reads is ahead of the world's: no two agree (I12)."""
    return float(random.Random(process).randrange(1_000_000))


class Agent:
    """A worker's process, its trainer, and its end of the link."""

    def __init__(self, name: str, clients: list[str]) -> None:
        self.name, self.clients = name, clients
        self.outbox: dict[str, m.Offer] = {}
        self.boot = 0
        #: of links that are no more: what was said on them, and is still on its way
        self.late: list[tuple[object, deque[Any]]] = []
        self.up: deque[Any] = deque()
        self.link = object()
        self.restart()

    def restart(self, late: bool = False) -> None:
        """All that is not in the outbox is gone."""
        run = RUN if self.outbox else None
        self.boot += 1
        self.ahead_s = ahead_s(f"{self.name} {self.boot}")
        self.state = WorkerState(
            self.name, f"{self.name[1:]}{self.boot:031x}", outbox=dict(self.outbox), outbox_run=run
        )
        self.loading = self.halting = False
        self.at_work: list[m.Task] = []
        self.again: set[str] = set()
        self.together: list[str] = []
        self.fetching: m.BlobRef | None = None
        self.uploads: dict[str, m.Offer] = {}
        self.exit: we.Exit | None = None
        self.reconnect(late)

    def reconnect(self, late: bool = False) -> None:
        """A new link; what was under way is lost, or what was on its way up comes late, beside what is said here."""
        if late and self.up:
            self.late.append((self.link, self.up))
        self.link = object()
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque()

    def feed(self, event: Any, now: float) -> None:
        commands = self.state.handle(event, now + self.ahead_s)
        self.state.validate()
        for command in commands:
            if isinstance(command, we.Forget) and command.task in self.outbox:
                over = may_forget(command.task, getattr(event, "message", None))
                assert over, f"I10: {command.task} deleted on {event}"
            self.obey(command)

    def obey(self, command: Any) -> None:
        match command:
            case we.Send(message):
                self.up.append(message)
            case we.Prepare():
                self.loading, self.at_work, self.halting = True, [], False
            case we.Fetch(blob):
                self.fetching = blob
            case we.Run(tasks):
                # What was done before is done again for the company's sake: the trainer comes to the next when it is.
                busy = {task.task for task in self.at_work} - self.again
                assert not busy, f"I10: {self.name} does {busy} and more at once"
                assert tasks, f"{self.name} begins nothing"
                self.again = {task.task for task in tasks} & self.outbox.keys()
                self.at_work, self.halting = list(tasks), False
                self.together = [parse_task(task.task)[0].unit for task in tasks]
            case we.Halt():
                self.halting = True
            case we.Upload(offer):
                self.uploads[offer.task] = offer
            case we.Forget(task):
                self.outbox.pop(task, None)
                self.uploads.pop(task, None)
            case we.Rebuild():
                self.uploads.clear()
                self.reconnect()
            case we.Exit(code, reason):
                assert code == 130, f"I11: {self.name} ends: {reason}"
                self.exit = command

    def fetched(self, now: float) -> None:
        """The adapter that it waits for comes, if it waits for one."""
        if (blob := self.fetching) is not None:
            self.fetching = None
            self.feed(we.Fetched(blob.digest, 100), now)

    def result(self, task: m.Task) -> Any:
        """What the trainer makes of a task."""
        match task.work:
            case InitWork() | TrainWork():
                blob = m.BlobRef(digest(task.task, self.together), 100)
                fields = example(m.Offer).__dict__ | {"blob": blob, "task": task.task, "nonce": task.nonce}
                return self.outbox.setdefault(task.task, m.Offer(**fields))
            case EvaluateWork():
                return m.Evaluated(task.task, task.nonce, 1.0, 1, 1, 0.1)
        return m.Generated(task.task, task.nonce, ("text",))
