"""The worker agent's state machine: events in, commands out; no clock, socket, file or chance inside.

Two things vary on their own: the link (LINKS) and the tasks in hand (`Hand`). A lost link never
stops a task; a finished update stays in the outbox, and is offered on every new link, until the
coordinator has committed its round or wants it no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.fields import MAX_OUTBOX, MAX_TEXT, FailureCode
from fedmq.protocol.hand import Hand
from fedmq.protocol.jobs import parse_task
from fedmq.recipe import RunSpec

#: After a deadline the coordinator stops its workers; one that has not heard of it by then stops by itself.
_OVERTIME_S = 5.0
#: The longest wait for an answer to a hello.
_MAX_HELLO_S = 16.0
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


@dataclass
class WorkerState:
    """One agent. `outbox`: offers by task; an offer whose task is in `settled` only waits for its commit.

    `nbytes_down`: what crossed the wire of adapters, for whatever task, and was not told of yet.
    """

    worker: str
    boot_id: str
    outbox: dict[str, m.Offer] = field(default_factory=dict)
    outbox_run: str | None = None
    link: Link = Link.HELLO
    welcome: m.Welcome | None = None
    prepared: we.Prepared | None = None
    prepares_for: tuple[str, RunSpec] | None = None
    hand: Hand = field(default_factory=Hand)
    settled: set[str] = field(default_factory=set)
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
            case we.Linked():
                return self._say_hello(now)
            case we.Prepared():
                self.prepared = event
                return self._ready(now) if self.link is Link.PREPARING else []
            case we.Fetched(digest, nbytes):
                if not self.hand.fetching or self.hand.group[0].adapter.digest != digest:  # type: ignore[union-attr]
                    return []
                self.nbytes_down, self.hand.fetching = self.nbytes_down + nbytes, False
                return [we.Run(self.hand.group)]
            case we.Stepped(step, total_steps):
                self.hand.step, self.hand.total_steps = step, total_steps
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
        if self.hand.deadline_at is None or now < self.hand.deadline_at:
            return self._keep_in_touch(now)
        # Also without a link: nobody will want what comes after the round.
        self.hand.deadline_at = None
        over = [command for task in self.hand.to_do() for command in self._drop(task.task)]
        return [*over, *self._keep_in_touch(now)]

    def _keep_in_touch(self, now: float) -> list[Any]:
        if self.link is Link.HELLO:
            if now < self.next_hello_at:
                return []
            if self.hello_wait_s > _MAX_HELLO_S:
                # Some links that fail are given up by libzmq without a word: the next hello goes by a new one.
                self.next_hello_at, self.hello_wait_s = now + 1.0, 1.0
                return [we.Rebuild()]
            self.next_hello_at, self.hello_wait_s = now + self.hello_wait_s, 2 * self.hello_wait_s
            return [we.Send(m.Hello((m.PROTOCOL_VERSION,), self.worker, self.boot_id))]
        assert self.welcome is not None
        if now - self.heard_at >= self.welcome.silence_s:
            return [we.Rebuild(), *self._say_hello(now)]
        if now < self.next_beat_at:
            return []
        self.next_beat_at = now + self.welcome.heartbeat_s
        phase = "preparing" if self.link is Link.PREPARING else self.hand.activity
        return [we.Send(m.Heartbeat(self.hand.first, phase, self.hand.step, self.hand.total_steps))]

    def _say_hello(self, now: float) -> list[Any]:
        if self.link is not Link.HELLO:
            self._move(Link.HELLO)
        self.next_hello_at, self.hello_wait_s = now, 0.5
        return self._keep_in_touch(now)

    def _received(self, message: Any, now: float) -> list[Any]:
        match message:
            case m.Welcome():
                return self._welcomed(message, now)
            case m.Reject(code, text):
                if code == "REHELLO":
                    return self._say_hello(now) if self.link is not Link.HELLO else []
                self.link = Link.ENDED
                exit_code = {"VERSION": 4, "REVOKED": 3}.get(code, 1)
                return [we.Exit(exit_code, f"the coordinator refuses this worker: {text}")]
            case m.Shutdown(outcome, reason):
                self.link = Link.ENDED
                end = we.Exit({"done": 0, "failed": 1, "interrupted": 130}[outcome], reason)
                if outcome == "done" and self.welcome is None:
                    end = we.Exit(6, f"the run is over: {reason}")
                return [we.Send(m.Goodbye(reason[:MAX_TEXT])), end]
            case m.Tasks(tasks, left_s):
                return self._given(tasks, None if left_s is None else now + left_s + _OVERTIME_S)
            case m.Cancel(task):
                return self._drop(task)
            case m.Verdict(task, code):
                return self._judged(task, code)
            case m.Committed(round, wanted_from):
                rounds = {task: parse_task(task)[0].round for task in self.outbox}
                over = [t for t, of in rounds.items() if of < wanted_from or (of <= round and t in self.settled)]
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
            self.hand = Hand()
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
        waiting = [offer for task, offer in self.outbox.items() if task not in self.settled]
        ready = m.Ready(
            clients=loaded.clients,
            evaluates_test=loaded.evaluates_test,
            base_digest=loaded.base_digest,
            num_trainable=loaded.num_trainable,
            num_parameters=loaded.num_parameters,
            device=loaded.device[:MAX_TEXT],
            running=tuple(self.hand.tasks),
            outbox=tuple(offer.task for offer in waiting[:MAX_OUTBOX]),
        )
        return [we.Send(ready), *map(we.Send, [*waiting, *self.hand.answers.values()])]

    def _given(self, tasks: tuple[m.Task, ...], deadline_at: float | None) -> list[Any]:
        if (first := self.hand.first) is not None:
            others = [task for task in tasks if task.task not in self.hand.tasks]
            return self._say_failed(others, "CANCELLED", f"busy with {first}")
        # Word of a commit may be lost, and nobody asks again for what was accepted: then the next task tells of it.
        over = [t for t in self.outbox if t in self.settled and parse_task(t)[0].round <= _known_by(tasks[0].task)]
        commands = [command for task in over for command in self._forget(task)]
        # A coordinator that was restarted does not know yet what is done. For what is not, the group is done again.
        done = [self.outbox[task.task] for task in tasks if task.task in self.outbox]
        self.settled -= {offer.task for offer in done}
        self.hand = Hand.of(tasks, self.outbox)
        self.hand.deadline_at = deadline_at
        commands += map(we.Send, done)
        if tasks[0].adapter is not None and self.hand.fetching:
            return [*commands, we.Fetch(tasks[0].adapter, tasks[0].delta, tasks[0].merged)]
        return [*commands, *([we.Run(tasks)] if self.hand.owed else [])]

    def _finished(self, result: Any) -> list[Any]:
        if result.task not in self.hand.owed:
            return []
        self.hand.made(result.task)
        if isinstance(result, m.Offer):
            # What was downloaded for all of a group, or for an evaluation before it, counts once.
            self.outbox[result.task], self.nbytes_down = result, 0
        else:
            self.hand.answers[result.task] = result
        halt = [we.Halt()] if self.hand.in_vain else []
        return [*([we.Send(result)] if self.link is Link.READY else []), *halt]

    def _broke(self, event: we.Broke) -> list[Any]:
        if event.fatal:
            self.link = Link.ENDED
            # 2 says that configuration or data are at fault, and with them every other worker's.
            code = 2 if event.code in ("DATA", "MODEL") else 1
            return [we.Send(m.Goodbye(event.text[:MAX_TEXT])), we.Exit(code, event.text)]
        failed = [task for task in self.hand.to_do() if event.task in (None, task.task)]
        said = self._say_failed(failed, event.code, event.text)
        halt = [we.Halt()] if self.hand.in_vain and event.code != "CANCELLED" else []
        return [*(said if self.link is Link.READY else []), *halt]

    def _judged(self, task: str, code: str) -> list[Any]:
        if code == "UPLOAD":
            return [we.Upload(self.outbox[task])] if task in self.outbox else []
        if code not in FINAL:
            return []
        if task in self.hand.owed:
            return self._drop(task)
        self.hand.drop(task)
        # Accepted is not committed: the coordinator may yet lose its disk's last second.
        if task in self.outbox and code in ("ACCEPTED", "DUPLICATE") and parse_task(task)[0].kind != "init":
            self.settled.add(task)
            return []
        return self._forget(task)

    def _drop(self, task: str) -> list[Any]:
        if task in self.hand.owed:
            # The others of its group go on. It is answered for when the trainer has done so: we are not free before.
            self.hand.unwanted.add(task)
            if self.hand.in_vain and self.hand.fetching:
                return self._say_failed(self.hand.to_do(), "CANCELLED", "on request")
            return [we.Halt()] if self.hand.in_vain else []
        if task in self.hand.tasks:
            return [*self._forget(task), *self._say_failed([self.hand.tasks[task]], "CANCELLED", "on request")]
        if task in self.outbox and task not in self.settled:
            # It only waited to be judged, but the coordinator holds us for busy with it until then.
            failed = m.TaskFailed(task, self.outbox[task].nonce, "CANCELLED", "on request")
            return [*self._forget(task), we.Send(failed)]
        return []

    def _say_failed(self, tasks: Iterable[m.Task], code: FailureCode, text: str) -> list[Any]:
        for task in tasks:
            self.hand.drop(task.task)
        return [we.Send(m.TaskFailed(task.task, task.nonce, code, text[:MAX_TEXT])) for task in tasks]

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
        self.hand.validate(self.outbox)
        assert self.settled <= set(self.outbox) - self.hand.tasks.keys()
        assert self.link in (Link.HELLO, Link.ENDED) or self.welcome is not None
        assert self.link is not Link.READY or self.prepared is not None or not self.hand.tasks


def _known_by(task: str) -> int:
    """The newest round that must be committed for there to be such a task."""
    job, _ = parse_task(task)
    return job.round - 1 if job.kind in ("init", "train") else job.round
