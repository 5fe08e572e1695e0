"""The coordinator's state machine: events in, commands out; no clock, socket, tensor or chance inside.

Rules that the rest relies on:
  - A job counts once, whoever does it: results are keyed by (kind, round, unit), not by worker.
  - Selection is asked for (Select) and answered (Selected); aggregation likewise (Aggregate, Committed).
    Between question and answer nothing else moves the phase.
  - A worker does one group of tasks at a time, and is free when each of them is judged. After a Cancel it is
    not free until it says so.
  - A worker that is lost does not fail its tasks: they go to another that can host the clients.
    A task that *fails* `max_attempts` times is given up for the round; the round needs its quorum.
  - The groups of a round (`grouping`) are fixed when it opens, and a group is always trained whole.

Phases move along PHASES only:

    WAITING -> INITIALISING -> SELECTING -> COLLECTING -> AGGREGATING -> SELECTING ... -> FINISHING -> ENDED
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fedmq.errors import LocalProtocolError
from fedmq.protocol import events as ev
from fedmq.protocol.assignment import awaited
from fedmq.protocol.events import Command
from fedmq.protocol.grouping import automatic, chunks
from fedmq.protocol.jobs import Job, Status, parse_task
from fedmq.protocol.phases import PHASES, Phase, Progress
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.protocol.roster import Roster
from fedmq.protocol.round_clock import RoundClock


@dataclass
class CoordinatorState:
    """One run. Feed `handle`; read `phase`, `version`, `round`, `roster`.

    Attributes:
      policy, timers: fixed for the run.
      expected: number of distinct clients that the run starts with.
      named: the clients' ids where they are known beforehand; otherwise whoever joins counts.
      generates: whether texts are wanted at the end.
      clock, accepted: of the round in work; its updates that are durable, by client, with their digests.
    """

    policy: RoundPolicy
    timers: Timers
    expected: int
    named: frozenset[str] = frozenset()
    generates: bool = True
    progress: Progress = Progress()
    started_at: float = 0.0
    phase: Phase = Phase.WAITING
    version: int = -1
    clock: RoundClock = field(init=False)
    accepted: dict[str, str] = field(init=False)
    unscored: set[int] = field(default_factory=set)
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.timers, self.policy.max_attempts, self.progress)
        self.version = -1 if self.progress.version is None else self.progress.version
        self.clock = RoundClock(self.policy, draw=self.progress.draw)
        self.accepted = dict(self.progress.accepted)
        # Known from the start: workers go on with the open round, or offer what they finished, before all are there.
        self._add_trainings(self.progress.selected)

    @property
    def round(self) -> int:
        """The round in work: one above the last committed version."""
        return self.version + 1

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Apply one event at monotonic time `now` (seconds) and return what to do, in this order."""
        commands: list[Command] = []
        if not self.ended:
            commands += self._react(event, now)
        if not self.ended:
            commands += self._advance(now)
        if not self.ended and self.phase is not Phase.WAITING:
            commands += self.roster.assign(now)
        return commands

    @property
    def ended(self) -> bool:
        """Whether the run is over: then no event changes anything."""
        return self.phase is Phase.ENDED

    def wants(self, task: str) -> bool:
        """Whether a result for `task` would still be used: asked before it is made durable."""
        return self.roster.open(parse_task(task)[0]) and not self.ended

    def in_evaluation(self) -> set[int]:
        """Versions whose evaluation is still to come: their adapters must stay."""
        return self.unscored | {s.job.round for s in self.roster.of_kind("evaluate") if s.unfinished}

    def _react(self, event: ev.Event, now: float) -> list[Command]:
        match event:
            case ev.WorkerGreeted(worker, restarted):
                return self.roster.greeted(worker, restarted, now)
            case ev.WorkerReady():
                return self.roster.joined(event, now) + self._evaluate_late()
            case ev.WorkerGone(worker, reason):
                return self.roster.lost(worker, reason, now)
            case ev.Heard():
                return self.roster.heard(event, now)
            case ev.ResultOffered(worker, task, digest):
                return [self._judge(worker, task, digest)]
            case ev.ResultStored(worker, task, digest):
                job, _ = parse_task(task)
                if job.kind == "train" and self.roster.open(job):
                    self.accepted[job.unit] = digest
                return self.roster.done(worker, task, digest)
            case ev.TaskFailed(worker, task, code, text):
                return self.roster.failed(worker, task, code, text, now)
            case ev.Selected(round, clients):
                return self._open_round(round, clients, now)
            case ev.Committed(version):
                return self._committed(version)
            case ev.StopAsked(reason):
                return self._end("interrupted", reason)
            case ev.Tick():
                return self.roster.silent(now)
        raise LocalProtocolError(f"unknown event {type(event).__name__}")

    def _judge(self, worker: str, task: str, digest: str) -> Command:
        job, _ = parse_task(task)
        if self.roster.open(job):
            return ev.Reply(worker, task, "UPLOAD")
        # A worker told to stop may have finished instead: a final verdict is all that it will hear of the task.
        self.roster.free(worker, task)
        state = self.roster.jobs.get(job)
        if state is not None:
            return ev.Reply(worker, task, "DUPLICATE" if state.digest == digest else "LATE")
        known = job.kind in ("train", "init") and job.round <= self.round
        return ev.Reply(worker, task, "LATE" if known else "UNKNOWN_TASK")

    def _advance(self, now: float) -> list[Command]:
        match self.phase:
            case Phase.WAITING:
                return self._start_if_ready(now)
            case Phase.INITIALISING:
                failed = [s for s in self.roster.of_kind("init") if s.status is Status.FAILED]
                return self._end("failed", f"no first adapter: {failed[0].failure}") if failed else []
            case Phase.COLLECTING:
                return self._close_if_full(now)
            case Phase.FINISHING:
                return [] if self.roster.unfinished() else self._end("done", "all rounds committed")
        return []

    def missing(self) -> list[str]:
        """Who is awaited before the run can start, in words."""
        absent = sorted(self.named - self.roster.clients())
        if absent:
            return absent
        lacking = self.expected - len(self.roster.clients())
        return [f"{lacking} more client{'s' if lacking > 1 else ''}"] if lacking > 0 else []

    def _start_if_ready(self, now: float) -> list[Command]:
        notes: list[Command] = []
        if self.missing():
            if now - self.started_at < self.timers.start_s:
                return []
            text = f"{', '.join(self.missing())} did not come within {self.timers.start_s:g} s"
            if len(self.roster.clients()) < self.policy.cohort:
                workers = ", ".join(sorted(self.roster.workers)) or "none"
                return self._end("failed", f"still awaited: {text} (workers connected: {workers})")
            notes = [ev.Note("warning", f"{text}: starting without")]
        if self.progress.version is None:
            self._move(Phase.INITIALISING)
            self.roster.add([[Job("init", 0, "adapter")]])
            return notes
        self.roster.add(self._evaluations(self.progress.unevaluated))
        if self.version >= self.policy.num_rounds:
            return notes + self._finishing()
        if self.progress.selected:
            self._move(Phase.COLLECTING)
            self.clock.open(now)
            return notes
        return notes + self._select()

    def _select(self) -> list[Command]:
        self._move(Phase.SELECTING)
        eligible = sorted((self.roster.sizes.keys() | self.named) - self.roster.gone)
        if len(eligible) < self.policy.cohort:
            lost = ", ".join(sorted(self.roster.gone))
            text = f"round {self.round} needs {self.policy.cohort} clients, {len(eligible)} are left"
            return self._end("failed", f"{text} (no worker hosts {lost})")
        return [ev.Select(self.round, tuple(eligible), self.policy.drawn(len(eligible)), self.clock.draw)]

    def _open_round(self, round: int, clients: tuple[str, ...], now: float) -> list[Command]:
        if round != self.round:
            raise LocalProtocolError(f"selection for round {round} while round {self.round} is open")
        self._move(Phase.COLLECTING)
        self.clock.open(now)
        groups = self._groups(clients)
        self._add_trainings(groups)
        return [ev.OpenRound(round, groups)]

    def _groups(self, clients: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        size, sizes = self.policy.clients_per_batch, self.roster.sizes
        if size is None:
            known = [sizes[client] for client in clients if client in sizes]
            size = automatic(known, self.policy.batch_size, self.policy.cohort)
        return tuple(chunks(clients, self.roster.hosts, size))

    def _add_trainings(self, groups: Iterable[Iterable[str]]) -> None:
        self.roster.add([Job("train", self.round, client) for client in group] for group in groups)
        for state in self.roster.of_kind("train"):
            if state.job.unit in self.accepted:
                state.status, state.digest = Status.DONE, self.accepted[state.job.unit]

    def _close_if_full(self, now: float) -> list[Command]:
        jobs = self.roster.of_kind("train")
        accepted = tuple(sorted(s.job.unit for s in jobs if s.status is Status.DONE))
        full, late = len(accepted) >= self.policy.cohort, self.clock.late(now)
        if not full and not late and any(s.unfinished for s in jobs):
            return []
        why = "the round is full" if full else f"not there at the deadline of {self.clock.deadline_s() or 0:.3g} s"
        rest: list[Job] = [s.job for s in jobs if s.unfinished]
        commands = [command for job in rest for command in self.roster.give_up(job, why, "info" if full else "warning")]
        short = len(accepted) < self.policy.quorum
        text = f"round {self.round}: {len(accepted)} of {len(jobs)} updates, the quorum is {self.policy.quorum}"
        if short and (not late or self.clock.draw + 1 >= self.policy.max_abandoned):
            failures = "; ".join(f"{s.job.unit}: {s.failure}" for s in jobs if s.status is Status.FAILED)
            return commands + self._end("failed", f"{text} ({failures})")
        self.roster.drop("train")
        if short:
            self.clock.draw += 1
            note = ev.Note("warning", f"{text}: abandoned, clients are drawn anew (time {self.clock.draw})")
            return [*commands, note, *self._select()]
        self.clock.full(now)
        self._move(Phase.AGGREGATING)
        return [*commands, ev.Aggregate(self.round, accepted)]

    def _committed(self, version: int) -> list[Command]:
        if version != self.round or self.phase is Phase.COLLECTING:
            raise LocalProtocolError(f"version {version} committed while round {self.round} is open")
        self.version, self.accepted = version, {}
        self.roster.drop("init")
        self.roster.drop("evaluate")
        self.roster.add(self._evaluations([version]))
        return self._finishing() if version >= self.policy.num_rounds else self._select()

    def _evaluations(self, versions: Iterable[int]) -> list[list[Job]]:
        units = ["test"] if self.roster.test_seen else sorted(self.roster.held_out - self.roster.gone)
        if not units:
            # Whoever can evaluate may come later; of the versions that wait for that, the first and the newest stay.
            waiting = self.unscored | set(versions)
            self.unscored = {version for version in waiting if version in (0, max(waiting))}
        return [[Job("evaluate", version, unit)] for version in versions for unit in units]

    def _evaluate_late(self) -> list[Command]:
        if self.unscored and self.phase is not Phase.WAITING and (self.roster.test_seen or self.roster.held_out):
            versions, self.unscored = sorted(self.unscored), set()
            self.roster.add(self._evaluations(versions))
        return []

    def _finishing(self) -> list[Command]:
        self._move(Phase.FINISHING)
        if self.generates:
            self.roster.add([[Job("generate", self.version, "prompts")]])
        return []

    def _end(self, outcome: str, reason: str) -> list[Command]:
        self._move(Phase.ENDED)
        return [ev.Finish(outcome, reason)]  # type: ignore[arg-type]

    def _move(self, phase: Phase) -> None:
        if phase not in PHASES[self.phase]:
            raise LocalProtocolError(f"cannot go from phase {self.phase.name} to {phase.name}")
        self.phase = phase

    def awaited(self, now: float) -> list[str]:
        """Who is awaited, for what, since when: lines for people."""
        if self.phase is Phase.WAITING:
            return [f"{who} to join, for {now - self.started_at:.0f} s" for who in self.missing()]
        return awaited(self.roster.jobs, self.roster.workers, now)

    def validate(self) -> None:
        """Check every invariant; tests call it after each event.

        Raises:
          LocalProtocolError: naming the first that does not hold.
        """
        train = self.roster.of_kind("train")
        checks = {
            "trainings are of the open round": all(s.job.round == self.round for s in train),
            "at most those that are drawn are in training": len(train) <= self.policy.drawn(len(train)),
            "nobody trains outside an open round": not train
            or self.phase in (Phase.WAITING, Phase.COLLECTING, Phase.ENDED),
            "evaluations are of versions": all(s.job.round <= self.version for s in self.roster.of_kind("evaluate")),
            "no version beyond the last round": self.version <= self.policy.num_rounds,
            "nobody works in vain": self.phase in (Phase.WAITING, Phase.ENDED) or not self.roster.at_nothing(),
        }
        for name, holds in checks.items():
            if not holds:
                raise LocalProtocolError(f"invariant broken in {self.phase.name}: {name}")
        self.roster.validate()
