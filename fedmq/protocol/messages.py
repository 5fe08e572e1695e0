"""Every message between coordinator and worker: a closed union of frozen dataclasses.

Control plane, worker to coordinator:  Hello Ready Heartbeat Offer Evaluated Generated TaskFailed Goodbye
Control plane, coordinator to worker:  Welcome Reject HeartbeatAck Tasks Verdict Cancel Committed Shutdown
Data plane, worker to coordinator:     Get Put
Data plane, coordinator to worker:     Chunk NotFound PutAck

`frames` turns them into bytes and refuses whatever is not exactly one of them. A new field needs a
new PROTOCOL_VERSION: unknown fields are refused, on purpose.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import (
    CLOSED,
    MAX_CLIENTS_PER_WORKER,
    MAX_GROUP,
    MAX_OUTBOX,
    MAX_PROMPTS,
    Continuation,
    Count,
    Digest,
    FailureCode,
    Seconds,
    TaskId,
    Text,
    Token,
    VerdictCode,
    WorkerName,
)
from fedmq.protocol.records import BlobRef as BlobRef
from fedmq.protocol.records import DeltaRef as DeltaRef
from fedmq.protocol.records import Folded as Folded
from fedmq.protocol.records import HostedClient as HostedClient
from fedmq.protocol.work import Task as Task
from fedmq.protocol.work import together
from fedmq.recipe import RunSpec

PROTOCOL_VERSION = 7


@dataclass(frozen=True, config=CLOSED)
class Hello:
    """First message on a link: who speaks, in which versions."""

    versions: tuple[Count, ...]
    worker: WorkerName
    boot_id: Token


@dataclass(frozen=True, config=CLOSED)
class Welcome:
    """The link is open. `data_port` is on the host that the worker already knows.

    `data_dir` is where the coordinator's host keeps prepared shards, `state_dir` where the workers that use these keep
    what their clients remember; a worker uses them on loopback only.
    """

    run: Token
    epoch: Count
    heartbeat_s: Seconds
    silence_s: Seconds
    data_port: Count
    chunk_nbytes: Count
    credits: Count
    data_dir: str
    state_dir: str
    spec: RunSpec


@dataclass(frozen=True, config=CLOSED)
class Reject:
    """The link is refused, for good unless the code is REHELLO."""

    code: Literal["VERSION", "REHELLO", "NAME_TAKEN", "NAME", "REVOKED", "QUARANTINED", "BASE", "DATA"]
    text: Text
    versions: tuple[Count, ...]


@dataclass(frozen=True, config=CLOSED)
class Ready:
    """Data and base are loaded. `running`: tasks of an earlier link; `outbox`: updates not yet committed."""

    clients: Annotated[tuple[HostedClient, ...], Field(max_length=MAX_CLIENTS_PER_WORKER)]
    evaluates_test: bool
    base_digest: Digest
    num_trainable: Count
    num_parameters: Count
    device: Text
    running: Annotated[tuple[TaskId, ...], Field(max_length=MAX_GROUP)]
    outbox: Annotated[tuple[TaskId, ...], Field(max_length=MAX_OUTBOX)]


@dataclass(frozen=True, config=CLOSED)
class Heartbeat:
    """The agent is alive; `step` of `total_steps` says how its trainer is getting on with `task` and its group."""

    task: TaskId | None
    phase: Literal["preparing", "idle", "fetching", "working", "uploading"]
    step: Count
    total_steps: Count


@dataclass(frozen=True, config=CLOSED)
class HeartbeatAck:
    """The coordinator is alive."""

    epoch: Count


@dataclass(frozen=True, config=CLOSED)
class Tasks:
    """What a worker is to do next, within `left_s` if given: one task, or several clients' trainings together."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=MAX_GROUP)]
    left_s: Seconds | None = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if len({task.client for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks of one client")
        if len(self.tasks) > 1 and self.tasks[0].work.kind != "train":
            raise ValueError("only trainings are done together")
        if len({(task.round, task.adapter, task.delta, task.merged, together(task.work)) for task in self.tasks}) > 1:
            raise ValueError("trainings that differ in more than the client")
        return self


@dataclass(frozen=True, config=CLOSED)
class Offer:
    """A finished update (or the first adapter), durable at the worker, to be uploaded.

    `num_tokens`: targets seen in training over all epochs. `adapter_config`: JSON text, from "init" only.
    `state_lost`: what the client remembered was not here, and it began anew.
    """

    task: TaskId
    nonce: Token
    blob: BlobRef
    num_examples: Count
    num_tokens: Count
    num_steps: Count
    train_loss: float
    train_seconds: Seconds
    nbytes_down: Count
    adapter_config: Annotated[str, Field(max_length=16384)]
    state_lost: bool


@dataclass(frozen=True, config=CLOSED)
class Evaluated:
    """Summed negative log-likelihood in nats over `num_tokens` targets."""

    task: TaskId
    nonce: Token
    loss_sum: float
    num_tokens: Count
    num_examples: Count
    seconds: Seconds


@dataclass(frozen=True, config=CLOSED)
class Generated:
    """One continuation for each prompt."""

    task: TaskId
    nonce: Token
    texts: Annotated[tuple[Continuation, ...], Field(max_length=MAX_PROMPTS)]


@dataclass(frozen=True, config=CLOSED)
class TaskFailed:
    """The task did not succeed here. `text` is for people."""

    task: TaskId
    nonce: Token
    code: FailureCode
    text: Text


@dataclass(frozen=True, config=CLOSED)
class Verdict:
    """What became of an offered or reported result."""

    task: TaskId
    code: VerdictCode
    text: Text


@dataclass(frozen=True, config=CLOSED)
class Cancel:
    """Stop this task; the worker answers TaskFailed(CANCELLED) and is free then, not before."""

    task: TaskId
    reason: Text


@dataclass(frozen=True, config=CLOSED)
class Committed:
    """Round `round` is durable: accepted updates up to it may be deleted, and results from before `wanted_from`."""

    round: Count
    wanted_from: Count


@dataclass(frozen=True, config=CLOSED)
class Goodbye:
    """The worker leaves on purpose."""

    reason: Text


@dataclass(frozen=True, config=CLOSED)
class Shutdown:
    """The run has ended, or pauses; the worker ends too."""

    outcome: Literal["done", "failed", "interrupted"]
    reason: Text


@dataclass(frozen=True, config=CLOSED)
class Get:
    """Send `nbytes` of the blob from `offset`. The receiver keeps at most its credit of these in flight."""

    digest: Digest
    offset: Count
    nbytes: Count


@dataclass(frozen=True, config=CLOSED)
class Chunk:
    """Payload: bytes of the blob from `offset`; `total` is the blob's size."""

    digest: Digest
    offset: Count
    total: Count


@dataclass(frozen=True, config=CLOSED)
class NotFound:
    """The blob is not here."""

    digest: Digest


@dataclass(frozen=True, config=CLOSED)
class Put:
    """Payload: bytes of an offered blob from `offset`. An empty payload asks where to go on. `nonce` is the task's."""

    nonce: Token
    digest: Digest
    offset: Count


@dataclass(frozen=True, config=CLOSED)
class PutAck:
    """The coordinator holds the first `offset` bytes: send from there, at most the welcome's credits ahead."""

    digest: Digest
    offset: Count


TO_COORDINATOR = (Hello, Ready, Heartbeat, Offer, Evaluated, Generated, TaskFailed, Goodbye)
TO_WORKER = (Welcome, Reject, HeartbeatAck, Tasks, Verdict, Cancel, Committed, Shutdown)
DATA_TO_COORDINATOR = (Get, Put)
DATA_TO_WORKER = (Chunk, NotFound, PutAck)
