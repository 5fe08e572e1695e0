"""The coordinator: one thread that owns the sockets, the clock and the state machine.

Messages become events, commands become messages and calls of FederatedServer; the state machine decides.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmq.errors import RemoteProtocolError, RunError
from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Phase
from fedmq.protocol.printable import escaped
from fedmq.recipe import RunSpec
from fedmq.runtime.admission import Admission
from fedmq.runtime.answers import record_evaluation, record_texts
from fedmq.runtime.client_states import FOLDER
from fedmq.runtime.intake import Intake, Stored
from fedmq.runtime.links import Links
from fedmq.runtime.reception import Desk, Reception
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.task_times import TaskTimes
from fedmq.runtime.tasks import make_tasks
from fedmq.runtime.view import View, live_status
from fedmq.transport.base import CoordinatorTransport, Received

log = logging.getLogger("fedmq.coordinator")
#: Silence after which a worker rebuilds its sockets; longer than any fsync or aggregation of ours.
SILENCE_S = 20.0
_LIVE_EVERY_S = 1.0
#: Heartbeats that a worker may miss before its link is tried. One that libzmq repairs at once misses none.
_MISSED = 2
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
        self._secret = self._journal.require("secret")
        self._links, self._times = Links(transport), TaskTimes(self._journal.clock)
        self._events: deque[ev.Event] = deque()
        self._intake = Intake(transport, server)
        self._admission = Admission(self._journal, state.named, spec.training.shared)
        shared = data_dir is not None and data_dir.is_dir()
        welcome = m.Welcome(
            run=self._journal.require("run"),
            epoch=int(self._journal.require("epoch")),
            heartbeat_s=state.timers.heartbeat_s,
            silence_s=SILENCE_S,
            data_port=transport.data_port,
            chunk_nbytes=self._intake.chunk_nbytes,
            credits=self._intake.credits,
            data_dir=str(data_dir.resolve()) if data_dir is not None and shared else "",
            state_dir=str((server.run_dir / FOLDER).resolve()) if shared else "",
            spec=spec,
        )
        self._reception = Reception(
            Desk(
                links=self._links,
                admission=self._admission,
                intake=self._intake,
                events=self._events,
                welcome=welcome,
                training=spec.training,
                secret=self._secret,
                journal=self._journal,
                note=self._note,
                answered=self._answered,
            )
        )
        self._alive = m.HeartbeatAck(welcome.epoch)
        self._next_live_at = 0.0
        self._next_try_at = 0.0
        self._untidy = False
        self._unscored = set(state.progress.unevaluated)
        self.finish: ev.Finish | None = None

    def run(self, stopping: Question = lambda: None, failure: Question = lambda: None) -> ev.Finish:
        """Serve until the run has ended.

        Args:
          stopping: asked a few times a second; a text ends the run, resumable.
          failure: likewise; a text ends it as failed (say, that all local workers died).
        """
        while self.finish is None:
            self.turn(stopping, failure)
        return self.finish

    def turn(self, stopping: Question = lambda: None, failure: Question = lambda: None) -> None:
        """Wait a moment for messages, and do what follows from them and from the time."""
        # What a commit left to do is done as soon as nobody has asked for anything for 5 ms.
        failed: str | None = None
        try:
            received = self.transport.receive(0.005 if self._untidy else 0.1)
        except RunError as error:
            # The transport has closed itself; the run ends as any that fails, so that it can be resumed.
            received, failed = Received([], []), str(error)
        if self._untidy and not received.messages:
            self._tidy()
        for notice in received.notices:
            self._reception.notice(notice)
        for incoming in received.messages:
            for stored in self._reception.take(incoming):
                self._uploaded(stored)
                # Two workers may have sent the same bytes for one job: the second is judged knowing of the first.
                self._settle()
            self._settle()
        self._try_links(time.monotonic())
        if (reason := stopping()) is not None:
            self._events.append(ev.StopAsked(reason))
        self._events.append(ev.Tick())
        self._settle()
        if self.finish is None and (reason := failed or failure()) is not None:
            self._finish(ev.Finish("failed", reason))
        now = time.monotonic()
        live = live_status(self.state, self.spec.training, now, time.time())
        self.view.progress(live)
        if now >= self._next_live_at or self.finish:
            self._next_live_at = now + _LIVE_EVERY_S
            self._journal.put(live=json.dumps(live))

    def close(self) -> None:
        """Tell the workers that it is over, and close the sockets."""
        finish = self.finish or ev.Finish("interrupted", "the coordinator was stopped")
        self._links.part(m.Shutdown(finish.outcome, finish.reason[:MAX_TEXT]), patience_s=2.0)
        self._intake.close()
        self.transport.close(linger_s=1.0)

    def _uploaded(self, stored: Stored) -> None:
        """A blob is here and durable: check it, journal it, and only then tell the state machine."""
        worker, offer = stored.worker, stored.offer
        job, _ = parse_task(offer.task)
        if not self.state.wants(offer.task):
            self._events.append(ev.ResultStored(worker, offer.task, offer.blob.digest))
            return
        try:
            content = stored.checked()
            if job.kind == "init":
                self.server.start(offer, content)
            else:
                screened = self.server.check(offer, content)
                times = self._times.take(worker, offer.task)
                self.server.accept(offer, worker, stored.nbytes, screened.norm, times)
                if screened.remark is not None:
                    self._note("warning", f"{screened.remark} from {worker}")
        except RemoteProtocolError as error:
            self._reception.refuse(worker, offer.task, error)
            return
        self._events.append(ev.ResultStored(worker, offer.task, offer.blob.digest))
        if job.kind == "init":
            self._events.append(ev.Committed(0))

    def _answered(self, worker: str, message: m.Evaluated | m.Generated) -> None:
        if self.state.wants(message.task):
            if isinstance(message, m.Generated):
                record_texts(self._journal, message, self.spec.generation.prompts)
            else:
                record_evaluation(self._journal, message, worker, self._times.take(worker, message.task))
        self._events.append(ev.ResultStored(worker, message.task))

    def _settle(self) -> None:
        while self._events:
            event = self._events.popleft()
            for command in self.state.handle(event, time.monotonic()):
                self._do(command)
            if isinstance(event, ev.Committed):
                self._unscored.add(event.version)
        if self.state.phase is not Phase.WAITING:
            self._show_scored(self._unscored - self.state.evaluations.pending())

    def _show_scored(self, versions: set[int]) -> None:
        for version in sorted(versions):
            self._unscored.discard(version)
            self.view.scored(version, self.server.scores(version).get(version))

    def _do(self, command: ev.Command) -> None:
        match command:
            case ev.Dispatch(worker, tasks):
                self._reception.guard.asked(worker, len(tasks))
                self._times.assigned(worker, tasks)
                left_s = self.state.clock.left_s(time.monotonic())
                self._tell(worker, make_tasks(tasks, self.spec, self.server, self._secret, left_s))
            case ev.CancelTask(worker, task, reason):
                self._tell(worker, m.Cancel(task, reason[:MAX_TEXT]))
            case ev.Reply(worker, task, "UPLOAD"):
                self._times.offered(worker, task)
                if (held := self._intake.expect(worker, task)) is not None:
                    self._uploaded(held)
                else:
                    self._verdict(worker, task, "UPLOAD")
            case ev.Reply(worker, task, code, text):
                self._intake.decline(worker, task)
                self._verdict(worker, task, code, text)
            case ev.Select(round, eligible, count, draw):
                for client in self.server.uploads.nowhere(self._journal.all_hosted()) if round == 1 else ():
                    self._note("warning", f"lora.rank_per_client names {client}, and no worker hosts it so far")
                self._events.append(ev.Selected(round, self.server.select(round, eligible, count, draw)))
            case ev.OpenRound(round, groups, started):
                self.server.open_round(round, groups, self.state.clock.draw, started)
            case ev.LeaveOut(client):
                self._admission.leave_out(client)
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
        wanted_from = self.state.policy.oldest_wanted(round + 1)
        self._intake.forget_before(wanted_from)
        self._untidy = True
        self._links.tell_all(m.Committed(round, wanted_from))
        self._events.append(ev.Committed(round))
        self.view.committed(self.server.rounds(round)[-1])

    def _tidy(self) -> None:
        if self._untidy:
            self._untidy = False
            self.server.tidy(self.state.in_use())

    def _finish(self, finish: ev.Finish) -> None:
        self._tidy()
        self._show_scored(self._unscored)
        # It may quote a worker's log, and is told to the others.
        self.finish = finish = replace(finish, reason=escaped(finish.reason))
        self._journal.put(status=finish.outcome, reason=finish.reason)

    def _verdict(self, worker: str, task: str, code: Any, text: str = "") -> None:
        self._tell(worker, m.Verdict(task, code, text[:MAX_TEXT]))

    def _tell(self, worker: str, message: Any) -> None:
        if not self._links.tell(worker, message):
            self._events.append(ev.WorkerGone(worker, "its link is closed"))

    def _try_links(self, now: float) -> None:
        """Say a word to whoever has missed heartbeats.

        Of a process that was killed the connection is closed at once, but only who sends on it is told. Silence on
        a link that is open may be a host that is held up, and is waited for (`Timers`).
        """
        if now < self._next_try_at:
            return
        heartbeat_s = self.state.timers.heartbeat_s
        self._next_try_at = now + heartbeat_s / 2
        for worker in self.state.roster.workers.values():
            if now - worker.last_heard >= _MISSED * heartbeat_s:
                self._tell(worker.name, self._alive)

    def _note(self, level: str, text: str) -> None:
        text = escaped(text)
        self._journal.add_note(level, text)
        log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)
        self.view.note(level, text)
