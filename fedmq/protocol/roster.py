"""Workers and jobs, and which has which: the book-keeping inside the coordinator's state machine."""

from __future__ import annotations

from collections.abc import Iterable

from fedmq.errors import LocalProtocolError
from fedmq.protocol import events as ev
from fedmq.protocol.events import Command
from fedmq.protocol.jobs import Job, JobState, Status, WorkerState, parse_task, task_id
from fedmq.protocol.policy import Timers

#: Evaluation first: people want to see the round that is over before the next one is.
_ORDER = {"init": 0, "evaluate": 1, "train": 2, "generate": 3}


class Roster:
    """Who is there, what is to be done, who does it."""

    def __init__(self, timers: Timers, max_attempts: int) -> None:
        self.timers = timers
        self.max_attempts = max_attempts
        self.workers: dict[str, WorkerState] = {}
        self.jobs: dict[Job, JobState] = {}
        #: client -> examples, of every client ever hosted
        self.sizes: dict[str, int] = {}
        self.held_out: set[str] = set()
        self.test_seen = False
        #: clients that no worker has hosted for `timers.start_s`
        self.gone: set[str] = set()

    # --- what there is -------------------------------------------------------------------------

    def clients(self) -> set[str]:
        """Clients that a connected worker hosts."""
        return {client for worker in self.workers.values() for client in worker.num_examples}

    def population(self) -> set[str]:
        """Every client that has been hosted in this run."""
        return set(self.sizes)

    def open(self, job: Job) -> bool:
        """Whether a result for `job` would be used; also one that comes after its worker was given up."""
        state = self.jobs.get(job)
        return state is not None and state.status is not Status.DONE

    def of_kind(self, kind: str) -> list[JobState]:
        """Jobs of one kind, by unit."""
        return sorted((s for s in self.jobs.values() if s.job.kind == kind), key=lambda s: s.job)

    def unfinished(self) -> bool:
        """Whether any job waits for a result."""
        return any(state.unfinished for state in self.jobs.values())

    def awaited(self, now: float) -> list[str]:
        """Who is awaited, for what, since when."""
        lines = []
        for state in sorted(self.jobs.values(), key=lambda s: (_ORDER[s.job.kind], s.job)):
            what = f"{state.job.kind} {state.job.unit}"
            if state.status is Status.ASSIGNED:
                worker = self.workers[state.worker or ""]
                silent = f", silent for {now - worker.last_heard:.0f} s" if worker.suspect else ""
                steps = f"step {worker.step}/{worker.total_steps}"
                lines.append(f"{worker.name}: {what}, {steps}, for {now - state.since:.0f} s{silent}")
            elif state.hostless_since is not None and state.unfinished:
                lines.append(f"any worker that hosts {state.job.unit}, for {now - state.hostless_since:.0f} s")
        return lines

    # --- events --------------------------------------------------------------------------------

    def greeted(self, name: str, restarted: bool, now: float) -> list[Command]:
        """A worker said hello. It gets nothing until it is ready; what a process had that is no more is given away."""
        worker = self.workers.get(name)
        if worker is None:
            return []
        worker.greeting = True
        return self.lost(name, "it was restarted", now, evict=False) if restarted else []

    def joined(self, event: ev.WorkerReady, now: float) -> list[Command]:
        """A worker is ready: new, restarted, or back after its link was lost."""
        # What it had is its own again below, if it still has it.
        self.lost(event.worker, "said hello again", now)
        notes: list[Command] = []
        self.workers[event.worker] = worker = WorkerState(
            event.worker, dict(event.num_examples), event.evaluates_test, event.held_out, now
        )
        self.sizes.update(event.num_examples)
        self.held_out |= event.held_out
        self.test_seen |= event.evaluates_test
        self.gone -= set(event.num_examples)
        # A task that is running and in the outbox (it is being uploaded) is one task.
        for task in dict.fromkeys(filter(None, (event.running, *event.outbox))):
            job, attempt = parse_task(task)
            state = self.jobs.get(job)
            if state is not None and state.status is Status.PENDING and worker.job is None:
                self._give(state, worker, attempt, now)
            elif task == event.running:
                # Somebody else has it by now. The worker is not free until it has stopped, or until what lies
                # finished in its outbox is judged, which is when it is offered.
                worker.job, worker.attempt, worker.draining = job, attempt, True
                if task not in event.outbox:
                    notes.append(ev.Reply(event.worker, task, "LATE"))
        return notes

    def heard(self, name: str, task: str | None, step: int, total_steps: int, now: float) -> list[Command]:
        """A sign of life."""
        worker = self.workers.get(name)
        if worker is None:
            return []
        back = worker.suspect
        worker.last_heard, worker.suspect = now, False
        if task is not None and worker.job == parse_task(task)[0]:
            worker.step, worker.total_steps = step, total_steps
        return [ev.Note("info", f"{name} is back")] if back else []

    def lost(self, name: str, reason: str, now: float, evict: bool = True) -> list[Command]:
        """A worker is no longer there: its task goes back to the queue, without blame."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return []
        text = f"{name} lost ({reason})"
        state = self.jobs.get(worker.job) if worker.job else None
        if state is not None and state.status is Status.ASSIGNED and state.worker == name:
            self._take_back(state)
            text += f": {state.job.kind} {state.job.unit} goes to another worker"
        return [*([ev.Evict(name)] if evict else []), ev.Note("warning", text)]

    def done(self, name: str, task: str, digest: str) -> list[Command]:
        """A result is durable."""
        job, _ = parse_task(task)
        self.free(name, task)
        state = self.jobs.get(job)
        if state is None or state.status is Status.DONE:
            return [ev.Reply(name, task, "LATE" if state is None or state.digest != digest else "DUPLICATE")]
        commands: list[Command] = [ev.Reply(name, task, "ACCEPTED")]
        if state.status is Status.ASSIGNED and state.worker is not None:
            commands += self._cancel(state, "another worker was first")
        state.status, state.worker, state.digest = Status.DONE, None, digest
        return commands

    def failed(self, name: str, task: str, code: str, text: str) -> list[Command]:
        """A task failed, or was cancelled, or its result was refused."""
        job, attempt = parse_task(task)
        self.free(name, task)
        state = self.jobs.get(job)
        if state is None or state.status is not Status.ASSIGNED or (state.worker, state.attempt) != (name, attempt):
            return []
        if code == "CANCELLED":
            self._take_back(state)
            return []
        state.failures += 1
        state.failure = f"{code}: {text}"
        state.avoid.add(name)
        self._take_back(state)
        what = f"{job.kind} {job.unit} failed on {name} ({state.failure})"
        if state.failures < self.max_attempts:
            return [ev.Note("warning", f"{what}: trying again")]
        state.status = Status.FAILED
        return [ev.Note("warning", f"{what}: given up after {state.failures} failures")]

    def silent(self, now: float) -> list[Command]:
        """Time has passed: who has not been heard of, and which jobs nobody can do?"""
        commands: list[Command] = []
        for worker in list(self.workers.values()):
            silence = now - worker.last_heard
            if silence >= self.timers.dead_s:
                commands += self.lost(worker.name, f"no sign of life for {silence:.0f} s", now)
            elif silence >= self.timers.suspect_s and not worker.suspect:
                worker.suspect = True
                commands.append(ev.Note("warning", f"{worker.name} has been silent for {silence:.0f} s"))
        for state in self.jobs.values():
            if state.status is not Status.PENDING or any(self._can(w, state.job) for w in self.workers.values()):
                state.hostless_since = None
            elif state.hostless_since is None:
                state.hostless_since = now
            elif now - state.hostless_since >= self.timers.start_s:
                commands += self.give_up(state.job, f"no worker hosts it, for {self.timers.start_s:g} s")
                self.gone |= {state.job.unit} & self.population()
        return commands

    # --- jobs ----------------------------------------------------------------------------------

    def add(self, jobs: Iterable[Job]) -> None:
        """Put jobs into the queue."""
        for job in jobs:
            if job in self.jobs:
                raise LocalProtocolError(f"job {job} exists already")
            self.jobs[job] = JobState(job)

    def drop(self, kind: str) -> None:
        """Forget the finished jobs of one kind."""
        self.jobs = {job: state for job, state in self.jobs.items() if job.kind != kind or state.unfinished}

    def give_up(self, job: Job, why: str) -> list[Command]:
        """No result is wanted any more."""
        state = self.jobs[job]
        commands: list[Command] = [ev.Note("warning", f"{job.kind} {job.unit}: {why}")]
        if state.status is Status.ASSIGNED:
            commands += self._cancel(state, why)
        state.status, state.worker, state.failure = Status.FAILED, None, why
        return commands

    def assign(self, now: float) -> list[Command]:
        """Give every free worker the first job that it can do; long trainings first, so that none trails behind."""
        queue = sorted(
            (s for s in self.jobs.values() if s.status is Status.PENDING),
            key=lambda s: (_ORDER[s.job.kind], -self.sizes.get(s.job.unit, 0), s.job),
        )
        commands: list[Command] = []
        for name in sorted(self.workers):
            worker = self.workers[name]
            if worker.job is not None or worker.suspect or worker.greeting:
                continue
            for state in queue:
                if state.status is Status.PENDING and self._may(worker, state):
                    self._give(state, worker, state.attempts, now)
                    commands.append(ev.Dispatch(name, task_id(state.job, state.attempt)))
                    break
        return commands

    def _can(self, worker: WorkerState, job: Job) -> bool:
        match job.kind:
            case "train":
                return job.unit in worker.num_examples
            case "evaluate":
                return worker.evaluates_test if job.unit == "test" else job.unit in worker.held_out
        return True

    def _may(self, worker: WorkerState, state: JobState) -> bool:
        if not self._can(worker, state.job):
            return False
        others = (w for w in self.workers.values() if w.name not in state.avoid and not w.suspect and not w.greeting)
        return worker.name not in state.avoid or not any(self._can(w, state.job) for w in others)

    def _give(self, state: JobState, worker: WorkerState, attempt: int, now: float) -> None:
        state.status, state.worker, state.attempt, state.since = Status.ASSIGNED, worker.name, attempt, now
        state.attempts = max(state.attempts, attempt + 1)
        state.hostless_since = None
        worker.job, worker.attempt, worker.draining = state.job, attempt, False
        worker.step, worker.total_steps = 0, 0

    def _take_back(self, state: JobState) -> None:
        state.status, state.worker = Status.PENDING, None

    def _cancel(self, state: JobState, why: str) -> list[Command]:
        worker = self.workers[state.worker or ""]
        if worker.job != state.job:
            return []
        worker.draining = True
        return [ev.CancelTask(worker.name, task_id(state.job, state.attempt), why)]

    def free(self, name: str, task: str) -> None:
        """The worker has nothing more to do for this task. Of one job it may have another attempt in hand."""
        worker = self.workers.get(name)
        if worker is not None and (worker.job, worker.attempt) == parse_task(task):
            worker.job, worker.draining, worker.step, worker.total_steps = None, False, 0, 0

    def validate(self) -> None:
        """Check that jobs and workers agree.

        Raises:
          LocalProtocolError: naming the job or the worker.
        """
        for job, state in self.jobs.items():
            if state.status is Status.ASSIGNED:
                worker = self.workers.get(state.worker or "")
                if worker is None or worker.job != job or worker.draining:
                    raise LocalProtocolError(f"{job} is assigned to {state.worker}, which does not have it")
            elif state.worker is not None:
                raise LocalProtocolError(f"{job} is {state.status.value} and has a worker")
        for worker in self.workers.values():
            if worker.job is None or worker.draining:
                continue
            held = self.jobs.get(worker.job)
            if held is None or held.worker != worker.name:
                raise LocalProtocolError(f"{worker.name} has {worker.job}, which is not its own")
