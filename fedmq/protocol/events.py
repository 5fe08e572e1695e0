"""What the coordinator's state machine hears (events) and says (commands). Metadata only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedmq.protocol.grouping import Size


@dataclass(frozen=True)
class WorkerGreeted:
    """A worker said hello, on a new link. `restarted`: as another process than at its last hello."""

    worker: str
    restarted: bool


@dataclass(frozen=True)
class WorkerReady:
    """A worker (again) waits for tasks: what it hosts, which tasks it still works on, which results it keeps."""

    worker: str
    clients: dict[str, Size]
    held_out: frozenset[str] = frozenset()
    evaluates_test: bool = False
    running: tuple[str, ...] = ()
    outbox: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerGone:
    """A worker said goodbye, or its link cannot be used."""

    worker: str
    reason: str


@dataclass(frozen=True)
class Heard:
    """Any sign of life, with the progress of its tasks, one of which is named, if it has any."""

    worker: str
    task: str | None = None
    phase: str = "idle"
    step: int = 0
    total_steps: int = 0


@dataclass(frozen=True)
class ResultOffered:
    """A worker has an adapter for us."""

    worker: str
    task: str
    digest: str


@dataclass(frozen=True)
class ResultStored:
    """An offered adapter was found valid and is durable; or an answer (evaluation, texts) is."""

    worker: str
    task: str
    digest: str = ""


@dataclass(frozen=True)
class TaskFailed:
    """A task did not succeed, or its result was not valid."""

    worker: str
    task: str
    code: str
    text: str


@dataclass(frozen=True)
class Selected:
    """The answer to Select."""

    round: int
    clients: tuple[str, ...]


@dataclass(frozen=True)
class Committed:
    """The answer to Aggregate, and to a stored first adapter (version 0): durable."""

    version: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class StopAsked:
    """Somebody wants the run to end now, resumable."""

    reason: str


Event = (
    WorkerGreeted
    | WorkerReady
    | WorkerGone
    | Heard
    | ResultOffered
    | ResultStored
    | TaskFailed
    | Selected
    | Committed
    | Tick
    | StopAsked
)


@dataclass(frozen=True)
class Dispatch:
    """Send these tasks, to be done together."""

    worker: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class CancelTask:
    """Tell the worker to stop this task."""

    worker: str
    task: str
    reason: str


@dataclass(frozen=True)
class Reply:
    """Tell the worker what becomes of its result."""

    worker: str
    task: str
    code: Literal["UPLOAD", "ACCEPTED", "DUPLICATE", "LATE", "UNKNOWN_TASK", "INVALID"]
    text: str = ""


@dataclass(frozen=True)
class Select:
    """Draw `count` of `eligible` for this round, and answer Selected. `draw` counts the times that it was drawn.

    `count` is 0 where all places of an asynchronous run are taken.
    """

    round: int
    eligible: tuple[str, ...]
    count: int
    draw: int = 0


@dataclass(frozen=True)
class OpenRound:
    """Make the round durable, before anything that follows: who was selected, in groups that are trained together.

    `started` holds the clients whose training began in an earlier round, with that round: of an asynchronous run.
    """

    round: int
    groups: tuple[tuple[str, ...], ...]
    started: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class LeaveOut:
    """Nobody hosts this client: make durable that it is not drawn until somebody does."""

    client: str


@dataclass(frozen=True)
class Aggregate:
    """The set is frozen: fold these clients' updates, step, commit, and answer Committed(round)."""

    round: int
    clients: tuple[str, ...]


@dataclass(frozen=True)
class Evict:
    """Forget this worker's link; it must say hello again."""

    worker: str


@dataclass(frozen=True)
class Note:
    """Something that a person should read."""

    level: Literal["info", "warning"]
    text: str


@dataclass(frozen=True)
class Finish:
    """The run has ended."""

    outcome: Literal["done", "failed", "interrupted"]
    reason: str


Command = Dispatch | CancelTask | Reply | Select | OpenRound | LeaveOut | Aggregate | Evict | Note | Finish
