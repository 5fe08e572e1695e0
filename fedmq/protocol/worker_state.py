"""The worker agent's state machine: events in, commands out; no clock, socket, file or chance inside.

Two things vary on their own: the link (LINKS) and the task in hand (`activity`). A lost link never
stops a task; a finished update stays in the outbox, and is offered on every new link, until the
coordinator has committed its round or wants it no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.fields import MAX_OUTBOX, MAX_TEXT
from fedmq.protocol.jobs import parse_task
from fedmq.recipe import RunSpec

FINAL = ("ACCEPTED", "DUPLICATE", "LATE", "UNKNOWN_TASK", "INVALID")


class Link(Enum):
    """Of the connection to the coordinator."""

    HELLO = "waiting for the coordinator"
    PREPARING = "loading data and base"
    READY = "ready"
    ENDED = "ended"


LINKS: dict[Link, set[Link]] = {
    Link.HELLO: {Link.PREPARING, Link.READY, Link.ENDED},
    Link.PREPARING: {Link.READY, Link.HELLO, Link.ENDED},
    Link.READY: {Link.HELLO, Link.ENDED},
    Link.ENDED: set(),
}

Activity = Literal["idle", "fetching", "working", "uploading"]


@dataclass
class WorkerState:
    """One agent. `outbox`: offers by task; an offer whose task is in `settled` only waits for its commit."""

    worker: str
    boot_id: str
    outbox: dict[str, m.Offer] = field(default_factory=dict)
    outbox_run: str | None = None
    link: Link = Link.HELLO
    welcome: m.Welcome | None = None
    prepared: we.Prepared | None = None
    prepares_for: tuple[str, RunSpec] | None = None
    task: m.Task | None = None
    answer: Any = None
    activity: Activity = "idle"
    settled: set[str] = field(default_factory=set)
    step: int = 0
    total_steps: int = 0
    nbytes_down: int = 0
    next_hello_at: float = 0.0
    hello_wait_s: float = 0.5
    heard_at: float = 0.0
    next_beat_at: float = 0.0

    def handle(self, event: Any, now: float) -> list[Any]:
        """Apply one event at monotonic time `now` (seconds) and return what to do, in this order."""
        if self.link is Link.ENDED:
            return []
        match event:
            case we.Received(message):
                self.heard_at = now
                return self._received(message, now)
            case we.Prepared():
                self.prepared = event
                return self._ready(now) if self.link is Link.PREPARING else []
            case we.Fetched(digest, nbytes):
                if self.task is None or self.activity != "fetching" or self.task.adapter.digest != digest:  # type: ignore[union-attr]
                    return []
                self.nbytes_down, self.activity = nbytes, "working"
                return [we.Run(self.task)]
            case we.Stepped(step, total_steps):
                self.step, self.total_steps = step, total_steps
                return []
            case we.Finished(result):
                return self._finished(result)
            case we.Broke():
                return self._broke(event)
            case we.Leave(reason):
                self.link = Link.ENDED
                return [we.Send(m.Goodbye(reason[:MAX_TEXT])), we.Exit(130, reason)]
            case we.Tick():
                return self._tick(now)
        raise TypeError(f"unknown event {event!r}")

    def _tick(self, now: float) -> list[Any]:
        if self.link is Link.HELLO:
            if now < self.next_hello_at:
                return []
            self.next_hello_at, self.hello_wait_s = now + self.hello_wait_s, min(2 * self.hello_wait_s, 10.0)
            return [we.Send(m.Hello((m.PROTOCOL_VERSION,), self.worker, self.boot_id))]
        assert self.welcome is not None
        if now - self.heard_at >= self.welcome.silence_s:
            return [we.Rebuild(), *self._say_hello(now)]
        if now < self.next_beat_at:
            return []
        self.next_beat_at = now + self.welcome.heartbeat_s
        phase = "preparing" if self.link is Link.PREPARING else self.activity
        task = self.task.task if self.task else None
        return [we.Send(m.Heartbeat(task, phase, self.step, self.total_steps))]

    def _say_hello(self, now: float) -> list[Any]:
        self._move(Link.HELLO)
        self.next_hello_at, self.hello_wait_s = now, 0.5
        return self._tick(now)

    def _received(self, message: Any, now: float) -> list[Any]:
        match message:
            case m.Welcome():
                return self._welcomed(message, now)
            case m.Reject(code, text):
                if code == "REHELLO":
                    return self._say_hello(now) if self.link is not Link.HELLO else []
                self.link = Link.ENDED
                return [we.Exit(4 if code == "VERSION" else 1, f"the coordinator refuses this worker: {text}")]
            case m.Shutdown(outcome, reason):
                self.link = Link.ENDED
                exit_code = {"done": 0, "failed": 1, "interrupted": 130}[outcome]
                return [we.Send(m.Goodbye(reason[:MAX_TEXT])), we.Exit(exit_code, reason)]
            case m.Task():
                return self._given(message)
            case m.Cancel(task):
                return self._drop(task)
            case m.Verdict(task, code):
                return self._judged(task, code)
            case m.Committed(round):
                over = [task for task in self.outbox if parse_task(task)[0].round <= round]
                return [command for task in over for command in self._drop(task) or self._forget(task)]
        return []

    def _welcomed(self, welcome: m.Welcome, now: float) -> list[Any]:
        if self.link is not Link.HELLO:
            return []
        commands: list[Any] = []
        if self.outbox_run not in (None, welcome.run):
            commands = [command for task in list(self.outbox) for command in self._forget(task)]
            # Whatever the trainer does, it does for a run that is no more: it is started anew.
            self.prepared = None
            self._clear()
        self.outbox_run, self.welcome, self.next_beat_at = welcome.run, welcome, now
        known, self.prepares_for = self.prepares_for == (welcome.run, welcome.spec), (welcome.run, welcome.spec)
        if known and self.prepared is not None:
            return commands + self._ready(now)
        self._move(Link.PREPARING)
        if known:
            # A link that was lost meanwhile does not make the trainer begin again.
            return commands
        self.prepared = None
        return [*commands, we.Prepare(welcome)]

    def _ready(self, now: float) -> list[Any]:
        self._move(Link.READY)
        assert self.prepared is not None
        loaded = self.prepared.loaded
        running = self.task.task if self.task else None
        waiting = [offer for task, offer in self.outbox.items() if task not in self.settled]
        ready = m.Ready(
            clients=loaded.clients,
            evaluates_test=loaded.evaluates_test,
            base_digest=loaded.base_digest,
            num_trainable=loaded.num_trainable,
            num_parameters=loaded.num_parameters,
            device=loaded.device[:MAX_TEXT],
            running=running,
            outbox=tuple(offer.task for offer in waiting[:MAX_OUTBOX]),
        )
        resent = [self.answer] if self.answer is not None else []
        return [we.Send(ready), *map(we.Send, [*waiting, *resent])]

    def _given(self, task: m.Task) -> list[Any]:
        if self.task is not None:
            if self.task.task == task.task:
                return []
            return [we.Send(m.TaskFailed(task.task, task.nonce, "CANCELLED", f"busy with {self.task.task}"))]
        self.task, self.step, self.total_steps, self.nbytes_down = task, 0, 0, 0
        if task.task in self.outbox:
            # A coordinator that was restarted does not know yet that it is done.
            self.activity = "uploading"
            return [we.Send(self.outbox[task.task])]
        if task.adapter is not None:
            self.activity = "fetching"
            return [we.Fetch(task.adapter)]
        self.activity = "working"
        return [we.Run(task)]

    def _finished(self, result: Any) -> list[Any]:
        if self.task is None or result.task != self.task.task:
            return []
        if isinstance(result, m.Offer):
            self.outbox[result.task], self.activity = result, "uploading"
        else:
            self.answer, self.activity = result, "uploading"
        return [we.Send(result)] if self.link is Link.READY else []

    def _broke(self, event: we.Broke) -> list[Any]:
        task = self.task
        if event.fatal:
            self.link = Link.ENDED
            # 2 says that configuration or data are at fault, and with them every other worker's.
            code = 2 if event.code in ("DATA", "MODEL") else 1
            return [we.Send(m.Goodbye(event.text[:MAX_TEXT])), we.Exit(code, event.text)]
        if task is None or self.activity == "uploading":
            return []
        self._clear()
        failed = m.TaskFailed(task.task, task.nonce, event.code, event.text[:MAX_TEXT])
        return [we.Send(failed)] if self.link is Link.READY else []

    def _judged(self, task: str, code: str) -> list[Any]:
        if code == "UPLOAD":
            return [we.Upload(self.outbox[task])] if task in self.outbox else []
        if code not in FINAL:
            return []
        commands: list[Any] = []
        if self.task is not None and self.task.task == task:
            if self.activity != "uploading":
                return self._drop(task)
            self._clear()
        if task in self.outbox:
            # Accepted is not committed: the coordinator may yet lose its disk's last second.
            if code in ("ACCEPTED", "DUPLICATE"):
                self.settled.add(task)
                if parse_task(task)[0].kind == "init":
                    commands = self._forget(task)
            else:
                commands = self._forget(task)
        return commands

    def _drop(self, task: str) -> list[Any]:
        if self.task is not None and self.task.task == task:
            if self.activity == "working":
                return [we.Halt()]
            nonce = self.task.nonce
            self._clear()
        elif task in self.outbox and task not in self.settled:
            nonce = self.outbox[task].nonce
        else:
            return []
        # Said also of an update that only waited to be judged: the coordinator holds us for busy until then.
        return [*self._forget(task), we.Send(m.TaskFailed(task, nonce, "CANCELLED", "on request"))]

    def _clear(self) -> None:
        self.task, self.answer, self.activity, self.step, self.total_steps = None, None, "idle", 0, 0

    def _forget(self, task: str) -> list[Any]:
        if self.outbox.pop(task, None) is None:
            return []
        self.settled.discard(task)
        return [we.Forget(task)]

    def _move(self, link: Link) -> None:
        assert link in LINKS[self.link], f"cannot go from link {self.link.name} to {link.name}"
        self.link = link

    def validate(self) -> None:
        """Check every invariant; tests call it after each event."""
        assert (self.task is None) == (self.activity == "idle"), (self.task, self.activity)
        assert self.settled <= set(self.outbox)
        assert self.link in (Link.HELLO, Link.ENDED) or self.welcome is not None
        assert self.link is not Link.READY or self.prepared is not None or self.activity == "idle"
