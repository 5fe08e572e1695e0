"""What workers say becomes events: decoded, checked, answered where the answer needs no decision."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from fedmq.errors import RemoteProtocolError, VersionMismatch
from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.fields import MAX_TEXT
from fedmq.recipe import TrainingRecipe
from fedmq.runtime.admission import Admission, as_event
from fedmq.runtime.intake import Intake, Stored
from fedmq.runtime.links import Links
from fedmq.runtime.tasks import check_kind, check_task
from fedmq.transport.base import Incoming, Notice


class Desk(NamedTuple):
    """What a reception works with.

    Attributes:
      links, admission, intake: of the coordinator.
      events: its queue, to which what was said is appended.
      welcome: the answer to a hello.
      training: settings that a joining worker's size is held against.
      secret: of the run, which the tasks' nonces are made of.
      note: (level, text) for people.
      answered: takes the result of an evaluation or a generation.
    """

    links: Links
    admission: Admission
    intake: Intake
    events: deque[ev.Event]
    welcome: m.Welcome
    training: TrainingRecipe
    secret: str
    note: Callable[[str, str], None]
    answered: Callable[[str, m.Evaluated | m.Generated], None]


class Reception:
    """Hears every message. Whatever a peer sends, what comes of it is an event, an answer, a note, or nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._refusals: Counter[tuple[str, str]] = Counter()

    def take(self, incoming: Incoming) -> list[Stored]:
        """One message; the uploads that it completed."""
        links = self._desk.links
        try:
            if incoming.plane == "data":
                return self._desk.intake.take(incoming)
            message, worker = links.decode(incoming), links.worker(incoming.peer)
            if isinstance(message, m.Hello):
                restarted = links.bind(incoming, message)
                self._desk.events.append(ev.WorkerGreeted(message.worker, restarted))
                links.send(incoming.peer, self._desk.welcome)
            elif worker is None:
                links.send(incoming.peer, m.Reject("REHELLO", "say hello first", ()))
            else:
                self._control(worker, incoming.peer, message)
        except VersionMismatch as error:
            ours = f"this coordinator speaks protocol {m.PROTOCOL_VERSION}"
            self._desk.note("warning", f"a worker was refused: {error}; {ours}")
            # The peer's handle on the data plane is of another socket than the one we answer by.
            if incoming.plane == "control":
                links.send(incoming.peer, m.Reject("VERSION", ours, (m.PROTOCOL_VERSION,)))
        except RemoteProtocolError as error:
            who = incoming.owner or links.worker(incoming.peer) or "an unknown peer"
            self._refusals[who, error.code] += 1
            # Every note is a durable write: a flood must not become one of those.
            if (count := self._refusals[who, error.code]).bit_count() == 1:
                self._desk.note("warning", f"a message of {who} was refused: {error} (time {count})")
        return []

    def notice(self, notice: Notice) -> None:
        """Something happened at the transport's door."""
        self._desk.note("warning", notice.text)
        if notice.kind == "revoked":
            self._desk.links.revoke(notice.worker, notice.text)
            self._desk.intake.revoke(notice.worker)
            self._desk.events.append(ev.WorkerGone(notice.worker, "its key was revoked"))

    def refuse(self, worker: str, task: str, error: RemoteProtocolError) -> None:
        """Tell a worker that its result is not valid; the task counts as failed."""
        self._desk.links.tell(worker, m.Verdict(task, "INVALID", str(error)[:MAX_TEXT]))
        # Not NONFINITE, which a trainer says of a training that diverges anywhere: another worker may do better.
        self._desk.events.append(ev.TaskFailed(worker, task, "INVALID", str(error)))

    def _control(self, worker: str, peer: bytes, message: Any) -> None:
        if isinstance(message, m.Offer | m.Evaluated | m.Generated | m.TaskFailed):
            check_task(message, self._desk.secret)
        events = self._desk.events
        match message:
            case m.Ready():
                self._ready(worker, peer, message)
            case m.Heartbeat(task, phase, step, total_steps):
                events.append(ev.Heard(worker, task, phase, step, total_steps))
                self._desk.links.send(peer, m.HeartbeatAck(self._desk.welcome.epoch))
            case m.Offer() | m.Evaluated() | m.Generated():
                try:
                    self._result(worker, message)
                except RemoteProtocolError as error:
                    self.refuse(worker, message.task, error)
            case m.TaskFailed(task, _, code, text):
                events.append(ev.TaskFailed(worker, task, code, text))
            case m.Goodbye(reason):
                events.append(ev.WorkerGone(worker, reason))

    def _ready(self, worker: str, peer: bytes, ready: m.Ready) -> None:
        if (refusal := self._desk.admission.check(ready)) is not None:
            self._desk.note("warning", f"{worker} was refused: {refusal.text}")
            self._desk.links.send(peer, refusal)
            self._desk.events.append(ev.WorkerGone(worker, refusal.text))
            return
        for level, line in self._desk.admission.introduce(worker, ready, self._desk.training):
            self._desk.note(level, line)
        self._desk.events.append(as_event(worker, ready))

    def _result(self, worker: str, message: m.Offer | m.Evaluated | m.Generated) -> None:
        check_kind(message)
        if isinstance(message, m.Offer):
            self._desk.intake.offered(worker, message)
            self._desk.events.append(ev.ResultOffered(worker, message.task, message.blob.digest))
        else:
            self._desk.answered(worker, message)
