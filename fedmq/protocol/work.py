"""A task: all that a piece of work depends on, and what it asks for, one record per kind of work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, ClientId, Count, TaskId, Token
from fedmq.protocol.records import BlobRef, DeltaRef, Folded
from fedmq.recipe import GenerationSpec, Part, TrainingRecipe


@dataclass(frozen=True, config=CLOSED)
class InitWork:
    """Make the first adapter from the base and the run's seed."""

    kind: Literal["init"]


@dataclass(frozen=True, config=CLOSED)
class TrainWork:
    """Train one client from the given adapter; `part` says what of it the client has, and sends."""

    kind: Literal["train"]
    recipe: TrainingRecipe
    part: Part


@dataclass(frozen=True, config=CLOSED)
class EvaluateWork:
    """Score the test shard (unit "test") or a client's own held-out split (unit = the client)."""

    kind: Literal["evaluate"]
    unit: str
    batch_size: Count


@dataclass(frozen=True, config=CLOSED)
class GenerateWork:
    """Continue the prompts."""

    kind: Literal["generate"]
    generation: GenerationSpec


Work = Annotated[InitWork | TrainWork | EvaluateWork | GenerateWork, Field(discriminator="kind")]


def together(work: Work) -> object:
    """What tasks agree in that are done together: of trainings, not the client's part of the adapter."""
    return work.recipe if isinstance(work, TrainWork) else work


@dataclass(frozen=True, config=CLOSED)
class Task:
    """One piece of work. It carries all that it depends on: any worker that has the data gives the same result.

    `follows`: of a training, or an evaluation of a client's own model, the client's last update that counted. What the
    client remembers is as it was after that.
    `delta`: what makes `adapter` of the version before, for a worker that has that; nobody has to use it.
    `merged`: the newest link of what was merged into the base that `adapter` belongs to; None: nothing was.
    """

    task: TaskId
    nonce: Token
    round: Count
    client: ClientId | None
    seed: Count
    adapter: BlobRef | None
    work: Work
    follows: Folded | None
    delta: DeltaRef | None
    merged: BlobRef | None

    @model_validator(mode="after")
    def _belong_to_an_adapter(self) -> Self:
        if self.adapter is None and (self.delta is not None or self.merged is not None):
            raise ValueError("a delta, or what is merged, of no adapter")
        return self
