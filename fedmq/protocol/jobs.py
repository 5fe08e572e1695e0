"""Jobs, the tasks that are attempts at them, and the workers that have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from fedmq.protocol.grouping import Size


class Job(NamedTuple):
    """One thing to be done, whoever does it: kind "init", "train", "evaluate" or "generate".

    `unit` is the client, or "test", "prompts", "adapter" where there is none. A task is an attempt at a job.
    """

    kind: str
    round: int
    unit: str


def task_id(job: Job, attempt: int) -> str:
    """The name of one attempt on the wire.

    Example:
      >>> task_id(Job("train", 3, "client_0"), 1)
      'train-3-client_0-1'
    """
    return f"{job.kind}-{job.round}-{job.unit}-{attempt}"


def parse_task(task: str) -> tuple[Job, int]:
    """The inverse of `task_id`.

    Example:
      >>> parse_task("train-3-client_a-b-1")
      (Job(kind='train', round=3, unit='client_a-b'), 1)
    """
    kind, round, rest = task.split("-", 2)
    unit, attempt = rest.rsplit("-", 1)
    return Job(kind, int(round), unit), int(attempt)


class Status(Enum):
    """Of a job."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    DONE = "done"
    FAILED = "failed"


@dataclass
class JobState:
    """A job and how it stands.

    `group` holds the jobs that are done together with it, itself among them, in order. `avoid` holds workers on
    which it failed; `failure` says the last reason.
    """

    job: Job
    group: tuple[Job, ...]
    status: Status = Status.PENDING
    attempt: int = 0
    attempts: int = 0
    failures: int = 0
    worker: str | None = None
    since: float = 0.0
    avoid: set[str] = field(default_factory=set)
    failure: str = ""
    digest: str = ""
    hostless_since: float | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a result is still wanted and possible."""
        return self.status in (Status.PENDING, Status.ASSIGNED)


@dataclass
class Held:
    """A task in a worker's hand. `stopping`: the worker knows, or will hear, that its result is not waited for."""

    attempt: int
    stopping: bool = False


@dataclass
class WorkerState:
    """A connected worker.

    `hand` holds its tasks, by job: it is free when that is empty. `greeting` between its hello on a new link and
    its being ready there.
    """

    name: str
    clients: dict[str, Size]
    evaluates_test: bool
    held_out: frozenset[str]
    last_heard: float
    suspect: bool = False
    greeting: bool = False
    hand: dict[Job, Held] = field(default_factory=dict)
    phase: str = "idle"
    step: int = 0
    total_steps: int = 0
    #: when its trainer was last seen to get on, and the longest time between two such moments
    progressed_at: float = 0.0
    pause_s: float = 0.0
    #: when its trainer began with what it has in hand; None while it has not
    working_since: float | None = None

    def begin(self, now: float) -> None:
        """It is given something to do."""
        self.phase, self.step, self.total_steps, self.progressed_at, self.pause_s = "idle", 0, 0, now, 0.0
        self.working_since = None

    def progress(self, phase: str, step: int, total_steps: int, now: float) -> None:
        """What it says of its task. Only work can stall: a transfer has timers of its own, and may take long."""
        seen = (self.phase, self.step, self.total_steps)
        self.phase, self.step, self.total_steps = phase, step, total_steps
        if phase == "working" and self.working_since is None:
            self.working_since = now
        if phase != "working" or seen != (phase, step, total_steps):
            if seen[0] == phase == "working":
                self.pause_s = max(self.pause_s, now - self.progressed_at)
            self.progressed_at = now

    def still_for(self, now: float) -> float:
        """Seconds since its trainer got on; 0 when it has nothing to train."""
        return now - self.progressed_at if self.phase == "working" and self.hand else 0.0

    def stalled(self, now: float, stall_s: float) -> bool:
        """Whether nothing has moved for `stall_s`, and for ten times the longest pause in this task so far."""
        return self.still_for(now) >= max(stall_s, 10 * self.pause_s)

    def can(self, group: Iterable[Job]) -> bool:
        """Whether it has the data for all of these jobs."""
        return all(self._has(job) for job in group)

    def _has(self, job: Job) -> bool:
        match job.kind:
            case "train":
                return job.unit in self.clients
            case "evaluate":
                return self.evaluates_test if job.unit == "test" else job.unit in self.held_out
        return True


def in_words(jobs: Iterable[Job]) -> str:
    """What these jobs, all of one kind, are about, for people.

    Example:
      >>> in_words([Job("train", 1, "client_0")])
      'train client_0'
      >>> in_words([Job("train", 1, f"client_{k}") for k in range(5)])
      'train client_0, client_1, client_2 and 2 more'
    """
    listed = list(jobs)
    shown = ", ".join(job.unit for job in listed[:3])
    return f"{listed[0].kind} {shown}" + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
