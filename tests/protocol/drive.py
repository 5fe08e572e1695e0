"""Driving the coordinator's state machine by hand: events in, commands out, `validate()` after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedmq.protocol import events as ev
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import PHASES, Progress
from fedmq.protocol.policy import RoundPolicy, Timers

TIMERS = Timers(start_s=100.0, heartbeat_s=1.0, suspect_s=5.0, dead_s=15.0)


def ready(name: str, *clients: str, size: int = 10, test: bool = False, **fields: Any) -> ev.WorkerReady:
    """A worker that hosts clients of `size` examples each, and the test shard if it says so."""
    return ev.WorkerReady(name, dict.fromkeys(clients, Size(size, 25 * size)), evaluates_test=test, **fields)


class Drive:
    """A run under test. `say` feeds an event now, `at` moves the clock; both return the commands."""

    def __init__(
        self,
        *,
        rounds: int = 2,
        cohort: int = 2,
        quorum: int | None = None,
        expected: int = 2,
        deadline_s: float | None = None,
        automatic_deadline: bool = False,
        over_selection: float = 1.0,
        stall_s: float = 300.0,
        named: tuple[str, ...] = (),
        generates: bool = False,
        together: int | None = 1,
        concurrency: int | None = None,
        max_staleness: int = 0,
        progress: Progress = Progress(),
    ) -> None:
        policy = RoundPolicy(
            *(rounds, cohort, quorum or cohort, deadline_s, automatic_deadline, over_selection),
            clients_per_batch=together,
            concurrency=concurrency,
            max_staleness=max_staleness,
        )
        timers = replace(TIMERS, stall_s=stall_s)
        self.state = CoordinatorState(policy, timers, expected, frozenset(named), generates, progress)
        self.now = 0.0
        self.trace = [self.state.phase]

    def say(self, *events: ev.Event) -> list[ev.Command]:
        """Feed events, one by one."""
        commands = []
        for event in events:
            commands += self.state.handle(event, self.now)
            self.state.validate()
            if self.state.phase is not self.trace[-1]:
                assert self.state.phase in PHASES[self.trace[-1]]
                self.trace.append(self.state.phase)
        return commands

    def at(self, now: float) -> list[ev.Command]:
        """Let the time be `now` (seconds)."""
        self.now = now
        return self.say(ev.Tick())

    def until(self, now: float, *workers: str) -> list[ev.Command]:
        """Let time go on to `now`, in steps of 4 s, with a sign of life of these workers at each."""
        commands = []
        while self.now < now:
            self.now = min(now, self.now + 4.0)
            commands += [*self.alive(*workers), *self.say(ev.Tick())]
        return commands

    def alive(self, *workers: str) -> list[ev.Command]:
        """A sign of life of each."""
        return [command for worker in workers for command in self.say(ev.Heard(worker))]

    def stored(self, worker: str, task: str, digest: str = "") -> list[ev.Command]:
        """The worker's result is durable."""
        return self.say(ev.ResultStored(worker, task, digest))

    def started(self, *workers: ev.WorkerReady) -> list[ev.Command]:
        """Join the workers, make the first adapter; the commands of its commit."""
        commands = [command for worker in workers for command in self.say(worker)]
        (init,) = [c for c in commands if isinstance(c, ev.Dispatch)]
        self.stored(init.worker, *init.tasks, "d0")
        return self.say(ev.Committed(0))

    def opened(self, *workers: ev.WorkerReady, clients: tuple[str, ...]) -> list[ev.Command]:
        """Start and select `clients` for round 1; the commands that open the round."""
        self.started(*workers)
        return self.say(ev.Selected(1, clients))


def dispatched(commands: list[ev.Command]) -> dict[str, str]:
    """worker -> task of the Dispatch commands; of a group, the tasks with spaces between."""
    return {c.worker: " ".join(c.tasks) for c in commands if isinstance(c, ev.Dispatch)}


def notes(commands: list[ev.Command]) -> str:
    """What a person would read."""
    return "; ".join(c.text for c in commands if isinstance(c, ev.Note))


def units(commands: list[ev.Command]) -> list[str]:
    """The units of the dispatched jobs."""
    return [parse_task(task)[0].unit for task in dispatched(commands).values()]
