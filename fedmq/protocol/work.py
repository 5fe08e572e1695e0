"""What a task asks for: one record per kind of work, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmq.protocol.fields import CLOSED, Count
from fedmq.recipe import GenerationSpec, TrainingRecipe


@dataclass(frozen=True, config=CLOSED)
class InitWork:
    """Make the first adapter from the base and the run's seed."""

    kind: Literal["init"]


@dataclass(frozen=True, config=CLOSED)
class TrainWork:
    """Train one client from the given adapter."""

    kind: Literal["train"]
    recipe: TrainingRecipe


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
