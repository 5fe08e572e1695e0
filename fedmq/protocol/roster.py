"""Workers and jobs, and which has which: the book-keeping inside the coordinator's state machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fedmq.errors import LocalProtocolError
from fedmq.protocol import assignment
from fedmq.protocol import events as ev
from fedmq.protocol.events import Command
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import Held, Job, JobState, Status, WorkerState, in_words, parse_task, task_id
from fedmq.protocol.phases import Progress
from fedmq.protocol.policy import RoundPolicy, Timers


class Roster:
    """Who is there, what is to be done, who does it."""

    def __init__(self, timers: Timers, policy: RoundPolicy, progress: Progress) -> None:
        self.timers, self.max_attempts, self._all_count = timers, policy.max_attempts, policy.all_count
        self.workers: dict[str, WorkerState] = {}
        self.jobs: dict[Job, JobState] = {}
        #: of every client ever hosted: its size, and who hosts it, also those that are lost by now
        self.sizes: dict[str, Size] = dict(progress.sizes)
        self.hosts = {client: set(workers) for client, workers in progress.hosts.items()}
        self.held_out: set[str] = set()
        self.test_seen = False
        #: clients that no worker has hosted for `timers.start_s`
        self.gone = set(progress.gone)

    # --- what there is -------------------------------------------------------------------------

    def clients(self) -> set[str]:
        """Clients that a connected worker hosts."""
        return {client for worker in self.workers.values() for client in worker.clients}

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
            event.worker, dict(event.clients), event.evaluates_test, event.held_out, now
        )
        self.sizes.update(event.clients)
        self.hosts = {client: who - {event.worker} for client, who in self.hosts.items()}
        for client in event.clients:
            self.hosts.setdefault(client, set()).add(event.worker)
        self.held_out |= event.held_out
        self.test_seen |= event.evaluates_test
        self.gone -= set(event.clients)
        # A task that is running and in the outbox (it is being uploaded) is one task.
        for task in dict.fromkeys((*event.running, *event.outbox)):
            job, attempt = parse_task(task)
            state = self.jobs.get(job)
            if state is not None and state.status is Status.PENDING:
                self._give(state, worker, attempt, now)
            elif task in event.running:
                # Somebody else has it by now. The worker is not free until it has stopped, or until what lies
                # finished in its outbox is judged, which is when it is offered.
                worker.hand.setdefault(job, Held(attempt, stopping=True))
                if task not in event.outbox:
                    notes.append(ev.Reply(event.worker, task, "LATE"))
        return notes

    def heard(self, said: ev.Heard, now: float) -> list[Command]:
        """A sign of life."""
        worker = self.workers.get(said.worker)
        if worker is None:
            return []
        back = worker.suspect
        worker.last_heard, worker.suspect = now, False
        if said.task is not None and parse_task(said.task)[0] in worker.hand:
            worker.progress(said.phase, said.step, said.total_steps, now)
        return [ev.Note("info", f"{worker.name} is back")] if back else []

    def lost(self, name: str, reason: str, now: float, evict: bool = True) -> list[Command]:
        """A worker is no longer there: its tasks go back to the queue, without blame."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return []
        text = f"{name} lost ({reason})"
        if own := [self.jobs[job] for job in worker.hand if self._own(worker, job)]:
            for state in own:
                self._take_back(state)
            text += f": {in_words(s.job for s in own)} {'goes' if len(own) == 1 else 'go'} to another worker"
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

    def failed(self, name: str, task: str, code: str, text: str, now: float) -> list[Command]:
        """A task failed, or was cancelled, or its result was refused."""
        job, attempt = parse_task(task)
        told = all(held.stopping for held in self.workers[name].hand.values()) if name in self.workers else True
        self.free(name, task)
        state = self.jobs.get(job)
        if state is None or state.status is not Status.ASSIGNED or (state.worker, state.attempt) != (name, attempt):
            return []
        if code == "CANCELLED":
            self._take_back(state)
            # Nobody told it to stop: it is at something that we know nothing of, and says so when it joins again.
            return [] if told else self.lost(name, "it has other work", now)
        return [self._fail(state, name, code, text)]

    def _fail(self, state: JobState, name: str, code: str, text: str) -> Command:
        job = state.job
        state.failures += 1
        state.failure = f"{code}: {text}"
        state.avoid.add(name)
        self._take_back(state)
        what = f"{job.kind} {job.unit} failed on {name} ({state.failure})"
        if code != "NONFINITE" and state.failures < self.max_attempts:
            return ev.Note("warning", f"{what}: trying again")
        state.status = Status.FAILED
        # Training is deterministic: what diverged once diverges anywhere.
        why = ": it would be the same again" if code == "NONFINITE" else f" after {state.failures} failures"
        return ev.Note("warning", f"{what}: given up{why}")

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
            elif worker.stalled(now, self.timers.stall_s):
                commands += self._stalled(worker, now)
        for state in self.jobs.values():
            if state.status is not Status.PENDING or any(w.can(state.group) for w in self.workers.values()):
                state.hostless_since = None
            elif state.hostless_since is None:
                state.hostless_since = now
            elif now - state.hostless_since >= self.timers.start_s:
                commands += self._part(state) if len(state.group) > 1 else self._hostless(state)
        return commands

    def _stalled(self, worker: WorkerState, now: float) -> list[Command]:
        """Its agent is alive, but its trainer does not get on: it is stopped, and what it had is tried again."""
        text = f"no progress for {worker.still_for(now):.0f} s at step {worker.step} of {worker.total_steps}"
        commands: list[Command] = []
        for job, held in worker.hand.items():
            if not held.stopping:
                commands.append(self._stop(worker, job, text))
                if self._own(worker, job):
                    commands.append(self._fail(self.jobs[job], worker.name, "STALLED", text))
        return commands

    def _part(self, state: JobState) -> list[Command]:
        """Nobody hosts the whole group any more: each of its jobs is done by itself, if it can be."""
        group = state.group
        for job in group:
            self.jobs[job].group = (job,)
        text = f"no worker hosts {in_words(group).partition(' ')[2]} together, for {self.timers.start_s:g} s"
        return [ev.Note("warning", f"{group[0].kind}: {text}: each goes by itself")]

    def _hostless(self, state: JobState) -> list[Command]:
        new = {state.job.unit} & self.sizes.keys() - self.gone
        self.gone |= new
        given_up = self.give_up(state.job, f"no worker hosts it, for {self.timers.start_s:g} s")
        return [*map(ev.LeaveOut, new), *given_up]

    # --- jobs ----------------------------------------------------------------------------------

    def add(self, groups: Iterable[Iterable[Job]]) -> None:
        """Put jobs into the queue; those of one group are done together."""
        for group in map(tuple, groups):
            for job in group:
                if job in self.jobs:
                    raise LocalProtocolError(f"job {job} exists already")
                self.jobs[job] = JobState(job, group)

    def drop(self, kind: str) -> None:
        """Forget the finished jobs of one kind."""
        self.jobs = {job: state for job, state in self.jobs.items() if job.kind != kind or state.unfinished}

    def give_up(self, job: Job, why: str, level: Literal["info", "warning"] = "warning") -> list[Command]:
        """No result is wanted any more."""
        state = self.jobs[job]
        commands: list[Command] = [ev.Note(level, f"{job.kind} {job.unit}: {why}")]
        if state.status is Status.ASSIGNED:
            commands += self._cancel(state, why)
        state.status, state.worker, state.failure = Status.FAILED, None, why
        return commands

    def assign(self, now: float) -> list[Command]:
        """Give every free worker the first group that it can do.

        A group is done whole, also when some of it is done already: numbers depend on what is computed beside them.
        """
        commands = [
            self._stop(worker, job, "nobody waits for it")
            for worker in self.at_nothing()
            for job, held in worker.hand.items()
            if not held.stopping
        ]
        queue = assignment.waiting(self.jobs, self.sizes, self._all_count)
        for name in sorted(self.workers):
            worker = self.workers[name]
            if worker.hand or worker.suspect or worker.greeting:
                continue
            for group in queue:
                if assignment.may(worker, group, self.jobs, self.workers.values()):
                    queue.remove(group)
                    worker.begin(now)
                    commands.append(ev.Dispatch(name, tuple(self._send(job, worker, now) for job in group)))
                    break
        return commands

    def at_nothing(self) -> list[WorkerState]:
        """Workers that nobody waits for, and that do not know it."""
        return [
            worker
            for worker in self.workers.values()
            if not all(held.stopping for held in worker.hand.values())
            and not any(self._own(worker, job) for job in worker.hand)
        ]

    def _send(self, job: Job, worker: WorkerState, now: float) -> str:
        state, attempt = self.jobs[job], self.jobs[job].attempts
        if state.status is Status.PENDING:
            self._give(state, worker, attempt, now)
        else:
            state.attempts += 1
            worker.hand[job] = Held(attempt)
        return task_id(job, attempt)

    def _give(self, state: JobState, worker: WorkerState, attempt: int, now: float) -> None:
        state.status, state.worker, state.attempt, state.since = Status.ASSIGNED, worker.name, attempt, now
        state.attempts = max(state.attempts, attempt + 1)
        state.hostless_since = None
        worker.hand[state.job] = Held(attempt)

    def _own(self, worker: WorkerState, job: Job) -> bool:
        """Whether the job waits for what this worker makes of it."""
        state = self.jobs.get(job)
        return state is not None and state.worker == worker.name

    def _take_back(self, state: JobState) -> None:
        state.status, state.worker = Status.PENDING, None

    def _cancel(self, state: JobState, why: str) -> list[Command]:
        worker = self.workers[state.worker or ""]
        return [self._stop(worker, state.job, why)] if state.job in worker.hand else []

    def _stop(self, worker: WorkerState, job: Job, why: str) -> Command:
        held = worker.hand[job]
        held.stopping = True
        return ev.CancelTask(worker.name, task_id(job, held.attempt), why)

    def free(self, name: str, task: str) -> None:
        """The worker has nothing more to do for this task. Of one job it may have another attempt in hand."""
        worker, (job, attempt) = self.workers.get(name), parse_task(task)
        if worker is not None and job in worker.hand and worker.hand[job].attempt == attempt:
            del worker.hand[job]
            if not worker.hand:
                worker.step, worker.total_steps = 0, 0

    def validate(self) -> None:
        """Check that jobs and workers agree; LocalProtocolError names the first that does not."""
        assignment.validate(self.jobs, self.workers)
