"""Jobs, the tasks that are attempts at them, and the workers that have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


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
    """A job and how it stands. `avoid` holds workers on which it failed; `failure` says the last reason."""

    job: Job
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
class WorkerState:
    """A connected worker.

    `job` and `attempt` are of the task that it has; `draining` when that was cancelled. `greeting` between
    its hello on a new link and its being ready there.
    """

    name: str
    num_examples: dict[str, int]
    evaluates_test: bool
    held_out: frozenset[str]
    last_heard: float
    suspect: bool = False
    greeting: bool = False
    job: Job | None = None
    attempt: int = 0
    draining: bool = False
    step: int = 0
    total_steps: int = 0
