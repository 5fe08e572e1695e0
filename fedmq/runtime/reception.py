"""What workers say becomes events: decoded, checked, answered where the answer needs no decision."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from fedmq.errors import RemoteProtocolError, VersionMismatch
from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.limits import Recent
from fedmq.protocol.printable import escaped, readable
from fedmq.recipe import TrainingRecipe
from fedmq.runtime.admission import Admission, as_event
from fedmq.runtime.guard import Guard, Who
from fedmq.runtime.intake import Intake, Stored
from fedmq.runtime.links import Links
from fedmq.runtime.tasks import check_kind, check_task
from fedmq.storage.journal import Journal
from fedmq.transport.base import Incoming, Notice


class Desk(NamedTuple):
    """What a reception works with.

    Attributes:
      links, admission, intake: of the coordinator.
      events: its queue, to which what was said is appended.
      welcome: the answer to a hello.
      training: settings that a joining worker's size is held against.
      secret: of the run, which the tasks' nonces are made of.
      journal: of the run; it keeps who is quarantined.
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
    journal: Journal
    note: Callable[[str, str], None]
    answered: Callable[[str, m.Evaluated | m.Generated], None]


class Reception:
    """Hears every message. Whatever a peer sends, what comes of it is an event, an answer, a note, or nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.guard = Guard(desk.journal, desk.note, self._shut_out)
        #: by worker and task, what was offered: it must not be something else the next time
        self._digests: Recent[tuple[str, str], str] = Recent(str)

    def take(self, incoming: Incoming) -> list[Stored]:
        """One message; the uploads that it completed."""
        links, peer = self._desk.links, incoming.peer
        control = incoming.plane == "control"
        # A link's handle says who it is on the control plane only; a key says it everywhere.
        worker = incoming.owner or (links.name(peer) if control else None)
        who: Who = worker or (incoming.plane, peer)
        if not self.guard.admits(incoming.plane, who):
            if control:
                links.doubt(peer)
            return []
        if worker is not None and (why := self.guard.quarantined(worker)) is not None:
            if control:
                links.send(peer, m.Reject("QUARANTINED", why, ()))
            return []
        try:
            if not control:
                return self._desk.intake.take(incoming)
            self._hear(links.decode(incoming), incoming, who)
        except VersionMismatch as error:
            ours = f"this coordinator speaks protocol {m.PROTOCOL_VERSION}"
            self.guard.remark(who, error.code, f"a worker was refused: {error}; {ours}")
            # The peer's handle on the data plane is of another socket than the one we answer by.
            if control:
                links.send(peer, m.Reject("VERSION", ours, (m.PROTOCOL_VERSION,)))
        except RemoteProtocolError as error:
            self.guard.refused(who, error)
        return []

    def notice(self, notice: Notice) -> None:
        """Something happened at the transport's door."""
        self._desk.note("warning", notice.text)
        if notice.kind == "revoked":
            self._desk.links.turn_away(notice.worker, m.Reject("REVOKED", notice.text[:MAX_TEXT], ()))
            self._desk.intake.revoke(notice.worker)
            self._desk.events.append(ev.WorkerGone(notice.worker, "its key was revoked"))

    def refuse(self, worker: str, task: str, error: RemoteProtocolError) -> None:
        """Tell a worker that its result is not valid; the task counts as failed."""
        self._desk.links.tell(worker, m.Verdict(task, "INVALID", str(error)[:MAX_TEXT]))
        # Not NONFINITE, which a trainer says of a training that diverges anywhere: another worker may do better.
        self._desk.events.append(ev.TaskFailed(worker, task, "INVALID", str(error)))
        self.guard.lied(worker, error)

    def _shut_out(self, worker: str, reason: str) -> None:
        self._desk.links.turn_away(worker, m.Reject("QUARANTINED", reason, ()))
        self._desk.intake.revoke(worker)
        self._desk.events.append(ev.WorkerGone(worker, "it is quarantined"))

    def _hear(self, message: Any, incoming: Incoming, who: Who) -> None:
        links, peer = self._desk.links, incoming.peer
        if isinstance(message, m.Hello):
            self.guard.joining(who)
            if (why := self.guard.quarantined(message.worker)) is not None:
                links.send(peer, m.Reject("QUARANTINED", why, ()))
                return
            restarted = links.bind(incoming, message)
            self._desk.events.append(ev.WorkerGreeted(message.worker, restarted))
            links.send(peer, self._desk.welcome)
        elif (worker := links.worker(peer)) is None:
            links.send(peer, m.Reject("REHELLO", "say hello first", ()))
        else:
            self._control(worker, peer, message)

    def _control(self, worker: str, peer: bytes, message: Any) -> None:
        if isinstance(message, m.Offer | m.Evaluated | m.Generated | m.TaskFailed):
            check_task(message, self._desk.secret)
        if isinstance(message, m.Offer):
            self._require_same(worker, message)
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
                events.append(ev.TaskFailed(worker, task, code, escaped(text)))
            case m.Goodbye(reason):
                events.append(ev.WorkerGone(worker, escaped(reason)))

    def _require_same(self, worker: str, offer: m.Offer) -> None:
        """One task has one result: an honest worker makes it once and keeps it. The first offer stands."""
        if self._digests.of((worker, offer.task)) not in ("", offer.blob.digest):
            raise RemoteProtocolError("CONFLICT", f"{offer.task} was offered with another digest before")

    def _ready(self, worker: str, peer: bytes, ready: m.Ready) -> None:
        self.guard.joining(worker)
        ready = replace(ready, device=escaped(ready.device))
        if (refusal := self._desk.admission.check(worker, ready)) is not None:
            self.guard.remark(worker, refusal.code, f"{worker} was refused: {refusal.text}")
            self._desk.links.send(peer, refusal)
            self._desk.events.append(ev.WorkerGone(worker, refusal.text))
            return
        for level, line in self._desk.admission.introduce(worker, ready, self._desk.training):
            self._desk.note(level, line)
        self.guard.hosts(worker, len(ready.clients))
        self._desk.events.append(as_event(worker, ready))

    def _result(self, worker: str, message: m.Offer | m.Evaluated | m.Generated) -> None:
        check_kind(message)
        if isinstance(message, m.Offer):
            self._desk.intake.offered(worker, message)
            self._digests.set((worker, message.task), message.blob.digest)
            self._desk.events.append(ev.ResultOffered(worker, message.task, message.blob.digest))
        elif isinstance(message, m.Generated):
            self._desk.answered(worker, replace(message, texts=tuple(map(readable, message.texts))))
        else:
            self._desk.answered(worker, message)
