"""A run by a virtual clock: the same state machine, server and trainer, and time that is computed.

Each client has a device of its own and a speed. Its trainings are done one after another, here, by one trainer, and
take as long as they would at that speed, which is not waited for. So any order in which updates could arrive is
played again to the bit, in every mode.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmq.errors import ConfigError, LocalProtocolError, RemoteProtocolError, RunError
from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.fields import MAX_CONTINUATION
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Phase
from fedmq.protocol.policy import Timers
from fedmq.protocol.printable import readable
from fedmq.protocol.work import TrainWork
from fedmq.recipe import RunSpec
from fedmq.runtime.admission import Admission, as_event
from fedmq.runtime.answers import record_evaluation, record_texts
from fedmq.runtime.child import TrainerProcess
from fedmq.runtime.pipe import PipeClosed
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.task_times import TaskTimes
from fedmq.runtime.tasks import make_tasks
from fedmq.runtime.view import View, live_status

#: Nobody is silent, nobody stalls: what there is to wait for is in the calendar.
NEVER = Timers(start_s=math.inf, suspect_s=math.inf, dead_s=math.inf, stall_s=math.inf)
_EVALUATOR = "evaluator"
_Asked = Callable[[], str | None]


class VirtualRun:
    """One run by a virtual clock. It stands where a `Coordinator` does, without a network.

    Args:
      state: the state machine, before its first event, with timers NEVER.
      server: the run's global model and folder.
      spec: of the run.
      view: who watches.
      trainer: a process that has been given nothing yet.
      setup: the shards of all clients, and the test shard.
      speeds: examples that a client trains in a virtual second, > 0; 1 for who is not in it.
    """

    def __init__(
        self,
        state: CoordinatorState,
        server: FederatedServer,
        spec: RunSpec,
        view: View,
        trainer: TrainerProcess,
        setup: link.Setup,
        speeds: Mapping[str, float],
    ) -> None:
        self.state, self.server, self.spec, self.view = state, server, spec, view
        self.now = 0.0
        self.finish: ev.Finish | None = None
        self._trainer, self._setup, self._speeds = trainer, setup, speeds
        self._journal = server.journal
        self._journal.clock = lambda: self.now
        self._times = TaskTimes(self._journal.clock)
        self._admission = Admission(self._journal, state.named, spec.training.shared)
        self._order = itertools.count()
        #: what will have been done when, by whom
        self._calendar: list[tuple[float, int, str, m.Task]] = []
        self._cancelled: set[str] = set()
        self._events: deque[ev.Event] = deque()
        self._unscored: set[int] = set()
        #: the adapter that each device has
        self._held: dict[str, str] = {}
        #: and how many links of the base
        self._links: Counter[str] = Counter()
        #: how the trainer ended
        self._ended = ""

    def run(self, stopping: _Asked = lambda: None, failure: _Asked = lambda: None) -> ev.Finish:
        """Until the run has ended; `stopping` is asked between two tasks, and a text from it ends the run.

        Raises:
          ConfigError: the base or the data cannot be used.
          RunError: the trainer ended.
        """
        self.view.note("info", "time is virtual: it is computed, and not waited for")
        self._begin(self._ask(self._setup))
        while self.finish is None:
            if (reason := stopping() or failure()) is not None:
                self._events.append(ev.StopAsked(reason))
            else:
                self._next()
            self._settle()
        return self.finish

    def close(self) -> None:
        """End the trainer."""
        self._ended = self._ended or self._trainer.end()

    def _begin(self, loaded: link.Loaded | link.Failed) -> None:
        if isinstance(loaded, link.Failed):
            raise ConfigError(loaded.text)
        everyone = m.Ready(
            clients=loaded.clients,
            evaluates_test=loaded.evaluates_test,
            base_digest=loaded.base_digest,
            num_trainable=loaded.num_trainable,
            num_parameters=loaded.num_parameters,
            device=loaded.device,
            running=(),
            outbox=(),
        )
        for level, line in self._admission.introduce("one trainer for all", everyone, self.spec.training):
            self.view.note(level, line)
        held_out = frozenset(client.client for client in loaded.clients if client.num_held_out)
        hosted = {f"device_of_{client.client}": (client,) for client in loaded.clients}
        for worker, clients in ({_EVALUATOR: ()} | hosted).items():
            ready = replace(everyone, clients=clients, evaluates_test=everyone.evaluates_test and worker == _EVALUATOR)
            if (refusal := self._admission.check(worker, ready)) is not None:
                raise ConfigError(refusal.text)
            event = as_event(worker, ready)
            # Scores take no time: those of clients' own models need not wait for their devices either.
            self._events.append(replace(event, held_out=held_out) if worker == _EVALUATOR else event)
        self._settle()

    def _next(self) -> None:
        """The next thing that happens: a task is done, or a deadline passes."""
        left_s = self.state.clock.left_s(self.now) if self.state.phase is Phase.COLLECTING else None
        if left_s is not None and (not self._calendar or self.now + left_s < self._calendar[0][0]):
            self.now += left_s
        elif self._calendar:
            self.now, _, worker, task = heapq.heappop(self._calendar)
            if task.task not in self._cancelled:
                self._done(worker, task)
        else:
            raise LocalProtocolError(f"nothing will happen, and the run is {self.state.phase.value}")
        self._events.append(ev.Tick())

    def _settle(self) -> None:
        while self._events and self.finish is None:
            event = self._events.popleft()
            for command in self.state.handle(event, self.now):
                self._do(command)
            if isinstance(event, ev.Committed):
                self._unscored.add(event.version)
        for version in sorted(self._unscored - self.state.evaluations.pending()):
            self._unscored.discard(version)
            self.view.scored(version, self.server.scores(version).get(version))
        self.view.progress(self._live())

    def _do(self, command: ev.Command) -> None:
        match command:
            case ev.Dispatch(worker, tasks):
                self._times.assigned(worker, tasks)
                for task in make_tasks(tasks, self.spec, self.server, self._journal.require("secret")).tasks:
                    due = self.now + self._seconds(task)
                    heapq.heappush(self._calendar, (due, next(self._order), worker, task))
            case ev.CancelTask(worker, task):
                self._cancelled.add(task)
                self._events.append(ev.TaskFailed(worker, task, "CANCELLED", "on request"))
            case ev.Select(round, eligible, count, draw):
                self._events.append(ev.Selected(round, self.server.select(round, eligible, count, draw)))
            case ev.OpenRound(round, groups, started):
                self.server.open_round(round, groups, self.state.clock.draw, started)
            case ev.Aggregate(round, clients):
                self.server.aggregate(round, clients)
                self._events.append(ev.Committed(round))
                self.server.tidy(self.state.in_use())
                self.view.committed(self.server.rounds(round)[-1])
                self._journal.put(live=json.dumps(self._live()))
            case ev.Note(level, text):
                self._journal.add_note(level, text)
                self.view.note(level, text)
            case ev.Finish(outcome, reason):
                self.finish = command
                self._journal.put(status=outcome, reason=reason)

    def _live(self) -> dict[str, Any]:
        return live_status(self.state, self.spec.training, self.now, time.time())

    def _seconds(self, task: m.Task) -> float:
        """What a task takes. Only training does."""
        if not isinstance(task.work, TrainWork):
            return 0.0
        hosted = self._journal.hosted(task.client or "")
        assert hosted is not None
        return task.work.recipe.num_epochs * hosted.num_examples / self._speeds.get(task.client or "", 1.0)

    def _downloaded(self, worker: str, task: m.Task) -> int:
        """Bytes of the adapter that a task starts from, and of what of its base the device has not.

        An adapter that is held costs none, one whose predecessor is held its delta's.
        """
        if task.adapter is None:
            return 0
        paths, had = self._merged(task), self._links[worker]
        self._links[worker] = max(had, len(paths))
        nbytes = sum(path.stat().st_size for path in paths[had:])
        held, self._held[worker] = self._held.get(worker), task.adapter.digest
        if held == task.adapter.digest:
            return nbytes
        return nbytes + (task.adapter if task.delta is None or held not in task.delta.bases else task.delta.blob).nbytes

    def _merged(self, task: m.Task) -> list[Path]:
        """The links of the base of a task's adapter."""
        if task.merged is None:
            return []
        links = self._journal.links(self.state.version)
        return [self.server.blobs.path(link) for link in links[: links.index(task.merged.digest) + 1]]

    def _done(self, worker: str, task: m.Task) -> None:
        """A task's time is over: now it is done, and nothing of it before, as it may have been cancelled."""
        base = task.adapter
        result = Path(self._setup.work_dir) / "result"
        blobs = (base, task.merged)
        adapter, merged = (None if blob is None else str(self.server.blobs.path(blob.digest)) for blob in blobs)
        answer = self._ask(link.Begin((task,), adapter, merged, (str(result),)))
        match answer:
            case link.Trained():
                self._trained(worker, task, answer, result.read_bytes())
            case link.Scored(_, loss_sum, num_tokens, num_examples, seconds):
                scored = m.Evaluated(task.task, task.nonce, loss_sum, num_tokens, num_examples, seconds)
                record_evaluation(self._journal, scored, worker, self._times.take(worker, task.task))
                self._events.append(ev.ResultStored(worker, task.task))
            case link.Texts(_, texts):
                shown = tuple(readable(text[:MAX_CONTINUATION]) for text in texts)
                texts_of = m.Generated(task.task, task.nonce, shown)
                record_texts(self._journal, texts_of, self.spec.generation.prompts)
                self._events.append(ev.ResultStored(worker, task.task))
            case link.Failed(_, code, text):
                self._events.append(ev.TaskFailed(worker, task.task, code, text))

    def _trained(self, worker: str, task: m.Task, trained: link.Trained, content: bytes) -> None:
        offer = m.Offer(
            task=task.task,
            nonce=task.nonce,
            blob=m.BlobRef(trained.digest, trained.nbytes),
            num_examples=trained.num_examples,
            num_tokens=trained.num_tokens,
            num_steps=trained.num_steps,
            train_loss=trained.train_loss,
            train_seconds=self._seconds(task),
            nbytes_down=self._downloaded(worker, task),
            adapter_config=trained.adapter_config,
            state_lost=trained.state_lost,
        )
        if parse_task(task.task)[0].kind == "init":
            self.server.start(offer, content)
            self._events.extend([ev.ResultStored(worker, task.task, trained.digest), ev.Committed(0)])
            return
        try:
            screened = self.server.check(offer, content)
        except RemoteProtocolError as error:
            self._events.append(ev.TaskFailed(worker, task.task, "INVALID", str(error)))
            return
        self.server.blobs.add(content)
        self._times.offered(worker, task.task)
        self.server.accept(offer, worker, len(content), screened.norm, self._times.take(worker, task.task))
        self._events.append(ev.ResultStored(worker, task.task, trained.digest))

    def _ask(self, message: link.Setup | link.Begin) -> Any:
        """Give the trainer something to do, and wait for the answer."""
        self._trainer.send(message)
        try:
            while True:
                for answer in self._trainer.receive():
                    if not isinstance(answer, link.Stepped):
                        return answer
        except PipeClosed:
            self.close()
            raise RunError(f"the trainer {self._ended}; see trainer.log") from None
