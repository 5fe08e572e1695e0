"""Messages between a worker's agent and its trainer process, over a pair of pipes.

Tensors travel as files; the pipes carry the same strict headers as the network, each behind its
length in 4 bytes, little-endian.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, MAX_GROUP, Count, Digest, FailureCode, Seconds, TaskId
from fedmq.protocol.messages import HostedClient, Task
from fedmq.recipe import RunSpec


@dataclass(frozen=True, config=CLOSED)
class Source:
    """Data that the worker was given: a shard, a folder of shards, or an owner's CSV with the client's id."""

    path: str
    client: str | None


@dataclass(frozen=True, config=CLOSED)
class Setup:
    """Load the base and the data. `model` overrides the run's name for the base, where it lies elsewhere here.

    `state_dir`: where what the clients remember is kept; `personal_dir`: where their own models are, if they have any.
    """

    spec: RunSpec
    sources: tuple[Source, ...]
    device: str
    model: str | None
    cache_dir: str | None
    work_dir: str
    log_dir: str | None
    state_dir: str
    personal_dir: str


@dataclass(frozen=True, config=CLOSED)
class Loaded:
    """The answer to Setup. `device`, in words: also why it is another than was asked for."""

    clients: tuple[HostedClient, ...]
    evaluates_test: bool
    base_digest: Digest
    num_trainable: Count
    num_parameters: Count
    device: str


@dataclass(frozen=True, config=CLOSED)
class Begin:
    """Do these tasks together. `adapter`: the file that all start from; `results`: where each one's new one goes.

    `merged`: the file of the newest link of the base; those before it are beside it, under their digests.
    """

    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=MAX_GROUP)]
    adapter: str | None
    merged: str | None
    results: tuple[str, ...]


@dataclass(frozen=True, config=CLOSED)
class Halt:
    """Stop the tasks in hand."""


@dataclass(frozen=True, config=CLOSED)
class Stepped:
    """The tasks in hand get on."""

    step: Count
    total_steps: Count


@dataclass(frozen=True, config=CLOSED)
class Trained:
    """An adapter is durable at its place in `Begin.results`."""

    task: TaskId
    digest: Digest
    nbytes: Count
    num_examples: Count
    num_tokens: Count
    num_steps: Count
    train_loss: float
    train_seconds: Seconds
    adapter_config: str
    state_lost: bool


@dataclass(frozen=True, config=CLOSED)
class Scored:
    """An evaluation."""

    task: TaskId
    loss_sum: float
    num_tokens: Count
    num_examples: Count
    seconds: Seconds


@dataclass(frozen=True, config=CLOSED)
class Texts:
    """Continuations."""

    task: TaskId
    texts: tuple[str, ...]


@dataclass(frozen=True, config=CLOSED)
class Failed:
    """A task failed; of several in hand, each has an answer of its own. None: Setup did, and no task can succeed."""

    task: TaskId | None
    code: FailureCode
    text: str


TO_TRAINER = (Setup, Begin, Halt)
TO_AGENT = (Loaded, Stepped, Trained, Scored, Texts, Failed)
