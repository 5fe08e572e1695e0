"""What the worker's state machine hears (events) and says (commands)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol.fields import FailureCode
from fedmq.protocol.trainer_link import Loaded


@dataclass(frozen=True)
class Prepared:
    """The trainer has loaded the base and the data."""

    loaded: Loaded


@dataclass(frozen=True)
class Linked:
    """There is a new link to the coordinator, on which we are not known yet."""


@dataclass(frozen=True)
class Received:
    """A control message has come."""

    message: Any


@dataclass(frozen=True)
class Fetched:
    """The adapter of the tasks in hand is on disk. `nbytes`: bytes that crossed the wire, 0 if it was held."""

    digest: str
    nbytes: int


@dataclass(frozen=True)
class Stepped:
    """The trainer gets on."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class Finished:
    """The trainer's result is durable: an Offer, Evaluated or Generated."""

    result: Any


@dataclass(frozen=True)
class Broke:
    """The trainer failed at a task or died, at whatever it had. `fatal`: no task can succeed here (data, model)."""

    code: FailureCode
    text: str
    fatal: bool = False
    task: str | None = None


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Leave:
    """The worker is to end."""

    reason: str


@dataclass(frozen=True)
class Send:
    """Send this control message."""

    message: Any


@dataclass(frozen=True)
class Prepare:
    """Start the trainer for this run, if it is not up for it yet, and answer Prepared."""

    welcome: m.Welcome


@dataclass(frozen=True)
class Fetch:
    """Get this adapter, by its delta where that is of use, and all that was merged into its base; answer Fetched."""

    blob: m.BlobRef
    delta: m.DeltaRef | None = None
    merged: m.BlobRef | None = None


@dataclass(frozen=True)
class Run:
    """Give the tasks to the trainer."""

    tasks: tuple[m.Task, ...]


@dataclass(frozen=True)
class Halt:
    """Make the trainer stop its tasks, and answer Broke(CANCELLED) for each."""


@dataclass(frozen=True)
class Upload:
    """Send the blob of this offer."""

    offer: m.Offer


@dataclass(frozen=True)
class Forget:
    """Delete this update from the outbox."""

    task: str


@dataclass(frozen=True)
class Rebuild:
    """Close the sockets and open new ones."""


@dataclass(frozen=True)
class Exit:
    """End the process: 0 done, 1 failed, 4 protocol version, 6 run over, 130 interrupted."""

    code: int
    reason: str
