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
  - A round of an asynchronous run is the filling of a buffer: trainings begin whenever there is a place, and those
    that are under way when the buffer is committed go on, towards a later round.

Phases move along PHASES only:

    WAITING -> INITIALISING -> SELECTING -> COLLECTING -> AGGREGATING -> SELECTING ... -> FINISHING -> ENDED
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedmq.errors import LocalProtocolError
from fedmq.protocol import events as ev
from fedmq.protocol.assignment import awaited
from fedmq.protocol.evaluations import Evaluations
from fedmq.protocol.events import Command
from fedmq.protocol.jobs import Job, Status, parse_task
from fedmq.protocol.phases import PHASES, Phase, Progress
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.protocol.roster import Roster
from fedmq.protocol.round_clock import RoundClock
from fedmq.protocol.trainings import Trainings


@dataclass
class CoordinatorState:
    """One run. Feed `handle`; read `phase`, `version`, `round`, `roster`.

    Attributes:
      policy, timers: fixed for the run.
      expected: number of distinct clients that the run starts with.
      named: the clients' ids where they are known beforehand; otherwise whoever joins counts.
      generates: rounds from one version that continues the prompts to the next; 0 for none.
      clock, trainings: of the round in work.
    """

    policy: RoundPolicy
    timers: Timers
    expected: int
    named: frozenset[str] = frozenset()
    generates: int = 1
    progress: Progress = Progress()
    started_at: float = 0.0
    phase: Phase = Phase.WAITING
    version: int = -1
    clock: RoundClock = field(init=False)
    roster: Roster = field(init=False)
    trainings: Trainings = field(init=False)
    evaluations: Evaluations = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.timers, self.policy, self.progress)
        self.evaluations = Evaluations(self.roster, self.generates, self.policy.num_rounds)
        self.version = -1 if self.progress.version is None else self.progress.version
        self.clock = RoundClock(self.policy, draw=self.progress.draw)
        # Known from the start: workers go on with the open round, or offer what they finished, before all are there.
        self.trainings = Trainings(self.policy, self.roster, self.progress)

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

    def in_use(self) -> set[int]:
        """Versions whose adapters must stay: their evaluation or their texts are still to come, or a training's end."""
        return self.evaluations.pending() | self.evaluations.to_continue() | self.trainings.bases()

    def _react(self, event: ev.Event, now: float) -> list[Command]:
        match event:
            case ev.WorkerGreeted(worker, restarted):
                return self.roster.greeted(worker, restarted, now)
            case ev.WorkerReady():
                notes = self.roster.joined(event, now)
                if self.phase is not Phase.WAITING:
                    self.evaluations.late()
                return notes
            case ev.WorkerGone(worker, reason):
                return self.roster.lost(worker, reason, now)
            case ev.Heard():
                return self.roster.heard(event, now)
            case ev.ResultOffered(worker, task, digest):
                return [self._judge(worker, task, digest)]
            case ev.ResultStored(worker, task, digest):
                job, _ = parse_task(task)
                if job.kind == "train" and self.roster.open(job):
                    self.trainings.accepted[job.unit] = digest
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
        self.evaluations.want(self.progress.unevaluated)
        self.evaluations.want_texts(self.progress.ungenerated)
        if self.version >= self.policy.num_rounds:
            return notes + self._finishing()
        if self.progress.selected:
            self._move(Phase.COLLECTING)
            self.clock.open(now)
            self.evaluations.ask_texts()
            return notes
        return notes + self._select()

    def _select(self) -> list[Command]:
        self._move(Phase.SELECTING)
        within_reach = self.trainings.within_reach(self.named)
        if within_reach < self.policy.cohort:
            lost = ", ".join(sorted(self.roster.gone))
            text = f"round {self.round} needs {self.policy.cohort} clients, {within_reach} are left"
            return self._end("failed", f"{text} (no worker hosts {lost})" if lost else text)
        eligible = self.trainings.eligible(self.named)
        count = min(self.trainings.places(), len(eligible))
        return [ev.Select(self.round, tuple(eligible), count, self.clock.draw)]

    def _open_round(self, round: int, clients: tuple[str, ...], now: float) -> list[Command]:
        if round != self.round:
            raise LocalProtocolError(f"selection for round {round} while round {self.round} is open")
        self._move(Phase.COLLECTING)
        if not self.policy.asynchronous or not self.clock.draw:
            self.clock.open(now)
        opened = self.trainings.begin(round, clients)
        self.evaluations.ask_texts()
        return [opened]

    def _close_if_full(self, now: float) -> list[Command]:
        jobs = self.trainings.jobs()
        accepted = tuple(sorted(s.job.unit for s in jobs if s.status is Status.DONE))
        full, late = len(accepted) >= self.policy.cohort, self.clock.late(now)
        if self.policy.asynchronous:
            return self._aggregate(accepted, self.trainings.stop_outdated(self.round), now) if full else self._refill()
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
        if not short:
            return self._aggregate(accepted, commands, now)
        self.roster.drop("train")
        self.clock.draw += 1
        note = ev.Note("warning", f"{text}: abandoned, clients are drawn anew (time {self.clock.draw})")
        return [*commands, note, *self._select()]

    def _aggregate(self, accepted: tuple[str, ...], before: list[Command], now: float) -> list[Command]:
        self.roster.drop("train")
        self.clock.full(now)
        self._move(Phase.AGGREGATING)
        return [*before, ev.Aggregate(self.round, accepted)]

    def _refill(self) -> list[Command]:
        """Clients take the places that have become free in an asynchronous round, and the round fails without any."""
        if not self.trainings.places() or (not self.trainings.eligible(self.named) and self.trainings.under_way()):
            return []
        self.clock.draw += 1
        return self._select()

    def _committed(self, version: int) -> list[Command]:
        if version != self.round or self.phase is Phase.COLLECTING:
            raise LocalProtocolError(f"version {version} committed while round {self.round} is open")
        self.version, self.trainings.accepted = version, {}
        self.roster.drop("init")
        self.roster.drop("evaluate")
        self.roster.drop("generate")
        self.evaluations.want([version])
        self.evaluations.want_texts([version])
        return self._finishing() if version >= self.policy.num_rounds else self._select()

    def _finishing(self) -> list[Command]:
        self._move(Phase.FINISHING)
        self.evaluations.ask_texts()
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
        training = self.trainings.under_way() and not self.policy.asynchronous
        checks = self.trainings.invariants(self.round) | {
            "nobody trains outside an open round": not training
            or self.phase in (Phase.WAITING, Phase.COLLECTING, Phase.ENDED),
            "evaluations and texts are of versions": all(
                s.job.round <= self.version for kind in ("evaluate", "generate") for s in self.roster.of_kind(kind)
            ),
            "no version beyond the last round": self.version <= self.policy.num_rounds,
            "nobody works in vain": self.phase in (Phase.WAITING, Phase.ENDED) or not self.roster.at_nothing(),
        }
        for name, holds in checks.items():
            if not holds:
                raise LocalProtocolError(f"invariant broken in {self.phase.name}: {name}")
        self.roster.validate()
