"""Messages between a worker's agent and its trainer process, over a pair of pipes.

Tensors travel as files; the pipes carry the same strict headers as the network, each behind its
length in 4 bytes, little-endian.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, Count, Digest, FailureCode, Seconds, TaskId
from fedmq.protocol.messages import HostedClient, Task
from fedmq.recipe import RunSpec


@dataclass(frozen=True, config=CLOSED)
class Source:
    """Data that the worker was given: a shard, a folder of shards, or an owner's CSV with the client's id."""

    path: str
    client: str | None


@dataclass(frozen=True, config=CLOSED)
class Setup:
    """Load the base and the data. `model` overrides the run's name for the base, where it lies elsewhere here."""

    spec: RunSpec
    sources: tuple[Source, ...]
    device: str
    model: str | None
    cache_dir: str | None
    work_dir: str
    log_dir: str | None


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
    """Do this task. `adapter`: the file of its adapter; `result`: where a new adapter is to be written."""

    task: Task
    adapter: str | None
    result: str


@dataclass(frozen=True, config=CLOSED)
class Halt:
    """Stop the task in hand."""


@dataclass(frozen=True, config=CLOSED)
class Stepped:
    """The task in hand gets on."""

    step: Count
    total_steps: Count


@dataclass(frozen=True, config=CLOSED)
class Trained:
    """An adapter is durable at `Begin.result`."""

    task: TaskId
    digest: Digest
    nbytes: Count
    num_examples: Count
    num_tokens: Count
    num_steps: Count
    train_loss: float
    train_seconds: Seconds
    adapter_config: str


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
    """The task in hand failed, or Setup did (`fatal`)."""

    code: FailureCode
    text: str
    fatal: bool


TO_TRAINER = (Setup, Begin, Halt)
TO_AGENT = (Loaded, Stepped, Trained, Scored, Texts, Failed)
