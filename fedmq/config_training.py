"""What a worker trains and how: sections `model`, `lora` and `training` of a config."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from fedmq.config_section import PathText, Section, Text, Texts, described
from fedmq.protocol.fields import CLIENT_ID

#: strict in its items; a tuple will do as a list
Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(strict=False)]


def _auto_or_count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 1 <= value <= 64):
        return value
    raise ValueError('should be "auto" or a number from 1 to 64')


class ModelConfig(Section):
    """The frozen base model."""

    section: ClassVar[str] = "model"

    model_name: Text = described("gpt2", 'hub id, local folder, or "fedmq-tiny", the base that comes with fedmq')
    max_length: int = described(128, "longest example, its end-of-text token included", "tokens", ge=2)
    cache_dir: PathText | None = described(None, "folder of downloaded models; null = the library's own")


class LoRAConfig(Section):
    """The adapter, as in peft's LoraConfig."""

    section: ClassVar[str] = "lora"

    r: int = described(8, "rank of the update matrices", ge=1)
    lora_alpha: int = described(16, "the update is scaled by lora_alpha / r", ge=1)
    target_modules: Texts = described(["c_attn", "c_proj"], "names of the modules that get an adapter", min_length=1)
    lora_dropout: float = described(0.1, "dropout before the adapter", "probability", ge=0, lt=1)
    layers_to_transform: Layers | None = described(
        None, "numbers of the layers that get an adapter, from 0; null = all", min_length=1
    )
    bias: Literal["none", "all", "lora_only"] = described("none", "which biases are trained")
    rank_per_client: dict[str, int] = described(
        {},
        "client id -> rank of its adapter, so many rows of A and columns of B, 1 to r; those not named have r. The "
        "scale is lora_alpha / r for all; docs/algorithms.md",
    )
    task_type: Literal["CAUSAL_LM"] = described("CAUSAL_LM", "peft's task type")

    def conflict(self) -> str | None:
        for client, rank in self.rank_per_client.items():
            if re.fullmatch(CLIENT_ID, client) is None:
                return f"lora.rank_per_client: {client!r:.80} is no client id; one is client_0, or client_north"
            if not 1 <= rank <= self.r:
                return f"lora.rank_per_client: {client} has rank {rank}; it should be 1 to lora.r, which is {self.r}"
        return None


class TrainingConfig(Section):
    """Local training of one client in one round."""

    section: ClassVar[str] = "training"

    num_epochs: int = described(3, "passes over a client's shard in each round", "epochs", ge=1)
    batch_size: int = described(8, "examples in one forward pass", "examples", ge=1)
    learning_rate: float = described(5e-5, "peak learning rate of local training", gt=0)
    weight_decay: float = described(0.01, "weight decay: AdamW's is decoupled, SGD adds it to the gradient", ge=0)
    warmup_steps: int = described(100, "linear warm-up, anew in each round", "optimizer steps", ge=0)
    gradient_accumulation_steps: int = described(1, "batches in one optimizer step", "batches", ge=1)
    max_grad_norm: float = described(1.0, "gradients are clipped to this L2 norm; 0 = not clipped", ge=0)
    logging_steps: int = described(10, "steps between two logged losses", "optimizer steps", ge=1)
    save_steps: int = described(500, "steps between two checkpoints of a client's training", "optimizer steps", ge=1)
    eval_steps: int = described(100, "steps between two evaluations on a client's own split", "optimizer steps", ge=1)
    fp16: bool = described(False, "mixed precision on a GPU: bf16 where the card has it, else fp16")
    shuffle_dataset: bool = described(True, "shuffle the shard in each epoch")
    max_samples_per_client: int | None = described(None, "most examples used of a shard; null = all", "examples", ge=1)
    gradient_checkpointing: bool = described(False, "less memory, more time: activations are computed again")
    engine: Literal["auto", "fast", "hf"] = described(
        "auto",
        'what trains: "fast" computes no padding, "hf" is the Trainer of transformers; "auto" = fast where it applies',
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = described(
        "auto", 'of the frozen weights; "auto" = fp32 or bf16, whichever is faster here (see also fp16)'
    )
    clients_per_batch: Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_count)] = described(
        "auto", 'clients trained in one step of engine "fast"; "auto" = several where each has few tokens', "clients"
    )
    num_threads: int | None = described(
        None, "CPU threads of one worker; null = cores / workers. Results are bit-equal for equal num_threads", ge=1
    )

    local_optimizer: Literal["adamw", "sgd"] = described("adamw", "what moves the weights; docs/algorithms.md")
    sgd_momentum: float = described(0.0, "of local_optimizer sgd", ge=0, lt=1)
    optimizer_state: Literal["reset", "keep"] = described(
        "reset", "local_optimizer's moments at the start of a round: reset = 0, keep = as the client's last left them"
    )

    def not_plain_sgd(self) -> str | None:
        """Why a step is not lr times the gradient, and what to set; None when it is."""
        if self.local_optimizer != "sgd":
            return f'local_optimizer "{self.local_optimizer}" does not tell; set local_optimizer "sgd"'
        if self.sgd_momentum:
            return f"sgd_momentum {self.sgd_momentum} hides; set sgd_momentum 0"
        if self.fp16 or self.precision == "fp16":
            return 'fp16 hides, as it may skip steps; set fp16 false, and precision "auto", "fp32" or "bf16"'
        return None

    def conflict(self) -> str | None:
        if self.sgd_momentum and self.local_optimizer != "sgd":
            return (
                f'training.sgd_momentum: {self.sgd_momentum} is of SGD, and local_optimizer is "adamw"; leave it out, '
                'or set local_optimizer "sgd" first'
            )
        if self.optimizer_state == "keep" and self.local_optimizer == "sgd" and not self.sgd_momentum:
            return (
                'training.optimizer_state: SGD without momentum has nothing to keep; set it to "reset", or '
                "sgd_momentum above 0 first"
            )
        if self.fp16 and self.precision not in ("auto", "fp16"):
            return f'training.fp16: true contradicts precision "{self.precision}"; set fp16 false, or precision "auto"'
        return None
