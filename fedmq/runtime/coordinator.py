"""The coordinator: one thread that owns the sockets, the clock and the state machine.

Messages become events, commands become messages and calls of FederatedServer; the state machine decides.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmq.errors import RemoteProtocolError, VersionMismatch
from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Phase
from fedmq.recipe import RunSpec
from fedmq.runtime.admission import Admission, as_event
from fedmq.runtime.intake import Intake, Stored
from fedmq.runtime.links import Links
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.tasks import check_kind, check_task, make_tasks
from fedmq.runtime.view import View, live_status
from fedmq.transport.base import CoordinatorTransport, Incoming, Notice

log = logging.getLogger("fedmq.coordinator")
#: Silence after which a worker rebuilds its sockets; longer than any fsync or aggregation of ours.
SILENCE_S = 20.0
_LIVE_EVERY_S = 1.0
Question = Callable[[], str | None]


class Coordinator:
    """One run on one transport.

    Args:
      state: the state machine, before its first event.
      server: the run's global model and folder.
      transport: bound already; the coordinator closes it.
      spec: what workers are told of the run.
      view: who watches.
      data_dir: prepared shards for local workers that were given none, if there are any.
    """

    def __init__(
        self,
        state: CoordinatorState,
        server: FederatedServer,
        transport: CoordinatorTransport,
        spec: RunSpec,
        view: View,
        data_dir: Path | None = None,
    ) -> None:
        self.state, self.server, self.transport, self.spec, self.view = state, server, transport, spec, view
        self._journal = server.journal
        self._epoch = int(self._journal.require("epoch"))
        self._secret = self._journal.require("secret")
        self._links = Links(transport)
        self._admission = Admission(self._journal, state.named)
        self._events: deque[ev.Event] = deque()
        self._intake = Intake(transport, server)
        self._welcome = m.Welcome(
            run=self._journal.require("run"),
            epoch=self._epoch,
            heartbeat_s=state.timers.heartbeat_s,
            silence_s=SILENCE_S,
            data_port=transport.data_port,
            chunk_nbytes=self._intake.chunk_nbytes,
            credits=self._intake.credits,
            data_dir=str(data_dir.resolve()) if data_dir is not None and data_dir.is_dir() else "",
            spec=spec,
        )
        self._next_live_at = 0.0
        self._untidy = False
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._unscored = set(state.progress.unevaluated)
        self.finish: ev.Finish | None = None

    def run(self, stopping: Question = lambda: None, failure: Question = lambda: None) -> ev.Finish:
        """Serve until the run has ended.

        Args:
          stopping: asked a few times a second; a text ends the run, resumable.
          failure: likewise; a text ends it as failed (say, that all local workers died).
        """
        while self.finish is None:
            # What a commit left to do is done as soon as nobody has asked for anything for 5 ms.
            received = self.transport.receive(0.005 if self._untidy else 0.1)
            if self._untidy and not received.messages:
                self._tidy()
            for notice in received.notices:
                self._at_the_door(notice)
            for incoming in received.messages:
                for stored in self._take(incoming):
                    self._uploaded(*stored)
                    # Two workers may have sent the same bytes for one job: the second is judged knowing of the first.
                    self._settle()
                self._settle()
            if (reason := stopping()) is not None:
                self._events.append(ev.StopAsked(reason))
            self._events.append(ev.Tick())
            self._settle()
            if self.finish is None and (reason := failure()) is not None:
                self._finish(ev.Finish("failed", reason))
            now = time.monotonic()
            self.view.progress(self.state, now)
            if now >= self._next_live_at or self.finish:
                self._next_live_at = now + _LIVE_EVERY_S
                self._journal.put(live=json.dumps(live_status(self.state, now, time.time())))
        return self.finish

    def close(self) -> None:
        """Tell the workers that it is over, and close the sockets."""
        finish = self.finish or ev.Finish("interrupted", "the coordinator was stopped")
        self._links.part(m.Shutdown(finish.outcome, finish.reason[:MAX_TEXT]), patience_s=2.0)
        self._intake.close()
        self.transport.close(linger_s=1.0)

    def _take(self, incoming: Incoming) -> list[Stored]:
        try:
            if incoming.plane == "data":
                return self._intake.take(incoming)
            message, worker = self._links.decode(incoming), self._links.worker(incoming.peer)
            if isinstance(message, m.Hello):
                restarted = self._links.bind(incoming, message)
                self._events.append(ev.WorkerGreeted(message.worker, restarted))
                self._links.send(incoming.peer, self._welcome)
            elif worker is None:
                self._links.send(incoming.peer, m.Reject("REHELLO", "say hello first", ()))
            else:
                self._control(worker, incoming.peer, message)
        except VersionMismatch as error:
            ours = f"this coordinator speaks protocol {m.PROTOCOL_VERSION}"
            self._note("warning", f"a worker was refused: {error}; {ours}")
            # The peer's handle on the data plane is of another socket than the one we answer by.
            if incoming.plane == "control":
                self._links.send(incoming.peer, m.Reject("VERSION", ours, (m.PROTOCOL_VERSION,)))
        except RemoteProtocolError as error:
            who = incoming.owner or self._links.worker(incoming.peer) or "an unknown peer"
            self._refusals[who, error.code] += 1
            # Every note is a durable write: a flood must not become one of those.
            if (count := self._refusals[who, error.code]).bit_count() == 1:
                self._note("warning", f"a message of {who} was refused: {error} (time {count})")
        return []

    def _at_the_door(self, notice: Notice) -> None:
        self._note("warning", notice.text)
        if notice.kind == "revoked":
            self._links.revoke(notice.worker, notice.text)
            self._intake.revoke(notice.worker)
            self._events.append(ev.WorkerGone(notice.worker, "its key was revoked"))

    def _control(self, worker: str, peer: bytes, message: Any) -> None:
        if isinstance(message, m.Offer | m.Evaluated | m.Generated | m.TaskFailed):
            check_task(message, self._secret)
        match message:
            case m.Ready():
                self._ready(worker, peer, message)
            case m.Heartbeat(task, _, step, total_steps):
                self._events.append(ev.Heard(worker, task, step, total_steps))
                self._links.send(peer, m.HeartbeatAck(self._epoch))
            case m.Offer() | m.Evaluated() | m.Generated():
                try:
                    self._result(worker, message)
                except RemoteProtocolError as error:
                    self._refuse(worker, message.task, error)
            case m.TaskFailed(task, _, code, text):
                self._events.append(ev.TaskFailed(worker, task, code, text))
            case m.Goodbye(reason):
                self._events.append(ev.WorkerGone(worker, reason))

    def _ready(self, worker: str, peer: bytes, ready: m.Ready) -> None:
        if (refusal := self._admission.check(ready)) is not None:
            self._note("warning", f"{worker} was refused: {refusal.text}")
            self._links.send(peer, refusal)
            self._events.append(ev.WorkerGone(worker, refusal.text))
            return
        for level, line in self._admission.introduce(worker, ready, self.spec.training):
            self._note(level, line)
        self._events.append(as_event(worker, ready))

    def _result(self, worker: str, message: m.Offer | m.Evaluated | m.Generated) -> None:
        check_kind(message)
        if isinstance(message, m.Offer):
            self._intake.offered(worker, message)
            self._events.append(ev.ResultOffered(worker, message.task, message.blob.digest))
        else:
            self._answered(worker, message)

    def _refuse(self, worker: str, task: str, error: RemoteProtocolError) -> None:
        self._verdict(worker, task, "INVALID", str(error))
        # Not NONFINITE, which a trainer says of a training that diverges anywhere: another worker may do better.
        self._events.append(ev.TaskFailed(worker, task, "INVALID", str(error)))

    def _uploaded(self, worker: str, offer: m.Offer, content: bytes) -> None:
        """A blob is here and durable: check it, journal it, and only then tell the state machine."""
        job, _ = parse_task(offer.task)
        if not self.state.wants(offer.task):
            self._events.append(ev.ResultStored(worker, offer.task, offer.blob.digest))
            return
        try:
            if job.kind == "init":
                self.server.start(offer, content)
            else:
                self.server.check(offer, content)
                self.server.accept(offer, worker)
        except RemoteProtocolError as error:
            self._refuse(worker, offer.task, error)
            return
        self._events.append(ev.ResultStored(worker, offer.task, offer.blob.digest))
        if job.kind == "init":
            self._events.append(ev.Committed(0))

    def _answered(self, worker: str, message: m.Evaluated | m.Generated) -> None:
        if self.state.wants(message.task):
            if isinstance(message, m.Generated):
                self.server.generated(message, self.spec.generation.prompts)
            else:
                self.server.evaluated(message, worker)
        self._events.append(ev.ResultStored(worker, message.task))

    def _settle(self) -> None:
        while self._events:
            event = self._events.popleft()
            for command in self.state.handle(event, time.monotonic()):
                self._do(command)
            if isinstance(event, ev.Committed):
                self._unscored.add(event.version)
        if self.state.phase is not Phase.WAITING:
            self._show_scored(self._unscored - self.state.in_evaluation())

    def _show_scored(self, versions: set[int]) -> None:
        for version in sorted(versions):
            self._unscored.discard(version)
            self.view.scored(version, self.server.scores(version).get(version))

    def _do(self, command: ev.Command) -> None:
        match command:
            case ev.Dispatch(worker, tasks):
                self._tell(worker, make_tasks(tasks, self.spec, self.server, self._secret))
            case ev.CancelTask(worker, task, reason):
                self._tell(worker, m.Cancel(task, reason[:MAX_TEXT]))
            case ev.Reply(worker, task, "UPLOAD"):
                if (held := self._intake.expect(worker, task)) is not None:
                    self._uploaded(*held)
                else:
                    self._verdict(worker, task, "UPLOAD")
            case ev.Reply(worker, task, code, text):
                self._intake.decline(worker, task)
                self._verdict(worker, task, code, text)
            case ev.Select(round, eligible, count):
                self._events.append(ev.Selected(round, self.server.select(round, eligible, count)))
            case ev.OpenRound(round, groups):
                self.server.open_round(round, groups)
            case ev.Aggregate(round, clients):
                self._aggregate(round, clients)
            case ev.Evict(worker):
                self._links.drop(worker)
            case ev.Note(level, text):
                self._note(level, text)
            case ev.Finish():
                self._finish(command)

    def _aggregate(self, round: int, clients: Sequence[str]) -> None:
        self._tidy()
        self.server.aggregate(round, clients)
        self._intake.forget(round)
        self._untidy = True
        self._links.tell_all(m.Committed(round))
        self._events.append(ev.Committed(round))
        self.view.committed(self.server.rounds(round)[-1])

    def _tidy(self) -> None:
        if self._untidy:
            self._untidy = False
            self.server.tidy(self.state.in_evaluation())

    def _finish(self, finish: ev.Finish) -> None:
        self._tidy()
        self._show_scored(self._unscored)
        self.finish = finish
        self._journal.put(status=finish.outcome, reason=finish.reason)

    def _verdict(self, worker: str, task: str, code: Any, text: str = "") -> None:
        self._tell(worker, m.Verdict(task, code, text[:MAX_TEXT]))

    def _tell(self, worker: str, message: Any) -> None:
        if not self._links.tell(worker, message):
            self._events.append(ev.WorkerGone(worker, "its link is closed"))

    def _note(self, level: str, text: str) -> None:
        self._journal.add_note(level, text)
        log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)
        self.view.note(level, text)
