"""What a worker must know of a run: plain frozen records, shared by the wire and by the trainer.

They hold no defaults and no logic: `fedmq.config` fills them, `fedmq.protocol.messages` carries
and checks them, `fedmq.learning` and `fedmq.data` consume them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: of LoRA: what is trained; "both" is all that there are
Factors = Literal["both", "A", "B", "R"]
#: what clients share of an adapter
Shared = Factors | Literal["none"]


@dataclass(frozen=True)
class ModelSpec:
    """The frozen base. `name` is a hub id, a local folder or "fedmq-tiny"; `max_length` in tokens."""

    name: str
    max_length: int


@dataclass(frozen=True)
class LoRASpec:
    """The adapter, as in peft's LoraConfig, and `core`: whether it has a third factor, R (r, r) between B and A."""

    r: int
    lora_alpha: int
    target_modules: tuple[str, ...]
    lora_dropout: float
    layers_to_transform: tuple[int, ...] | None
    bias: str
    task_type: str
    core: bool


@dataclass(frozen=True)
class Part:
    """What of an adapter a client trains from and sends.

    `sent`: the LoRA factors that its update carries; tensors of neither are carried, too. `rank`: its adapter has so
    many rows of A and columns of B, the first ones; None is all.
    """

    sent: Factors
    rank: int | None


@dataclass(frozen=True)
class LocalMethodSpec:
    """A local method by name, and its options; None is the method's own default."""

    name: str
    mu: float | None
    alpha: float | None


@dataclass(frozen=True)
class TrainingRecipe:
    """Local training of one client in one round: the fields of config section `training`, and the last three.

    `factors`: the LoRA factors that are trained; the aggregation decides it for each round. `shared`: those that are
    sent and averaged; the others each client keeps for itself. `method`: as `federated.local_method` says.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    gradient_accumulation_steps: int
    max_grad_norm: float
    logging_steps: int
    save_steps: int
    eval_steps: int
    fp16: bool
    shuffle_dataset: bool
    max_samples_per_client: int | None
    gradient_checkpointing: bool
    engine: str
    precision: str
    num_threads: int | None
    local_optimizer: str
    sgd_momentum: float
    optimizer_state: str
    factors: Factors
    shared: Shared
    method: LocalMethodSpec


@dataclass(frozen=True)
class DataSpec:
    """How text becomes examples; the fields of config section `data` without the path."""

    text_column: str
    author_column: str
    train_split: float
    val_split: float
    test_split: float
    filter_min_length: int
    filter_inbound_only: bool


@dataclass(frozen=True)
class GenerationSpec:
    """Texts to generate; `temperature` 0 is greedy."""

    prompts: tuple[str, ...]
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class CodecSpec:
    """A codec by name, and its options; None is the codec's own default."""

    name: str
    block: int | None
    fraction: float | None
    error_feedback: bool | None


@dataclass(frozen=True)
class RunSpec:
    """Everything that a worker with only its own data needs in order to take part."""

    experiment_name: str
    seed: int
    model: ModelSpec
    lora: LoRASpec
    training: TrainingRecipe
    data: DataSpec
    generation: GenerationSpec
    upload: CodecSpec
    download: CodecSpec
