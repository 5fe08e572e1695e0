"""ExperimentConfig and its sections: every setting of a run, its default, its unit and what is allowed."""

from __future__ import annotations

import importlib.resources
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field

from fedmq import atomic, config_files, recipe
from fedmq.config_baseline import BaselineConfig
from fedmq.config_federated import FederatedConfig
from fedmq.config_lora import OF_RANKS
from fedmq.config_section import PathText, Section, Text, Texts, described
from fedmq.config_tracking import TrackingConfig
from fedmq.config_training import LoRAConfig, ModelConfig, TrainingConfig
from fedmq.errors import ConfigError


def _known_device(value: str) -> str:
    if re.fullmatch(r"cuda(:[0-9]+)?|cpu|mps", value):
        return value
    raise ValueError('should be "cuda", "cuda:N", "cpu" or "mps"')


class DataConfig(Section):
    """The text, its filters and its splits."""

    section: ClassVar[str] = "data"

    dataset_path: PathText = described("./twcs/twcs.csv", 'a CSV; "bundled" = the sample that comes with fedmq')
    text_column: Text = described("text", "column of the text")
    author_column: Text = described("author_id", "column of the author")
    train_split: float = described(0.8, "share of the rows that clients train on", "fraction", gt=0, lt=1)
    val_split: float = described(0.1, "share that clients evaluate on locally", "fraction", ge=0, lt=1)
    test_split: float = described(0.1, "share of the global evaluation", "fraction", gt=0, lt=1)
    filter_min_length: int = described(10, "shortest text kept", "characters", ge=0)
    filter_inbound_only: bool = described(True, "keep only what customers wrote (column inbound)")


class GenerationConfig(Section):
    """Texts that versions of the model make of fixed prompts."""

    section: ClassVar[str] = "generation"

    prompts: Texts = described(
        ["My order is", "I have been waiting", "Why does my phone", "Thank you for"],
        "openings to be continued",
        max_length=16,
    )
    max_new_tokens: int = described(50, "longest continuation", "tokens", ge=1)
    temperature: float = described(0.7, "of sampling; 0 = greedy", ge=0)
    every: int = described(1, "from one generation to the next; the first and the last version always", "rounds", ge=1)


class ExperimentConfig(Section):
    """All settings of a run.

    Example:
      >>> config = get_default_config()
      >>> config.federated.num_clients = 12
      >>> config.federated.clients_per_round = 20
      Traceback (most recent call last):
      fedmq.errors.ConfigError: federated.clients_per_round: 20 is more than num_clients 12; lower ...
    """

    experiment_name: Text = described("federated_gpt2_lora", "name of the experiment")
    output_dir: PathText = described("./fed_results", "folder of the run, relative to the current one")
    log_dir: PathText = described("./fed_logs", "folder of the logs, relative to the current one")
    seed: int = described(42, "every draw of the run derives from it", ge=0, lt=2**63)
    device: Annotated[Text, AfterValidator(_known_device)] = described(
        "cuda", '"cuda", "cuda:N", "cpu" or "mps"; "cuda" without a GPU is cpu, which is then said'
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="the frozen base model")
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="the adapter")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="local training")
    federated: FederatedConfig = Field(default_factory=FederatedConfig, description="clients, rounds, aggregation")
    data: DataConfig = Field(default_factory=DataConfig, description="text, filters, splits")
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="texts of each version")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="where else rounds are recorded")
    baseline: BaselineConfig = Field(default_factory=BaselineConfig, description="filled in by `fedmq run --baseline`")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config of an object such as `to_dict` gives; what is missing takes its default.

        Raises:
          ConfigError: in one line, every unknown key, wrong type, value and combination found.
        """
        config = cls.model_validate(values)
        splits = (config.data.train_split, config.data.val_split, config.data.test_split)
        if abs(sum(splits) - 1) > 1e-6:
            raise ConfigError(
                f"data: train_split, val_split and test_split are {splits[0]}, {splits[1]} and {splits[2]}, "
                f"which sum to {sum(splits):g}; they should sum to 1"
            )
        together = config.training.clients_per_batch
        if config.federated.mode == "async" and together not in ("auto", 1):
            raise ConfigError(
                f"training.clients_per_batch: {together} clients that are trained together begin and end together, "
                'which federated.mode "async" is to avoid; set it to 1 or "auto"'
            )
        reasons = {
            "rolora": "has one count of steps for all moments, and the factors are trained in turns",
            "flora": "is of the factors of the round before, which begin anew in each",
        }
        if config.lora.bias != "none":
            reasons["fed_sb"] = "has one count of steps for all moments, and biases are trained for longer than R"
        if config.training.optimizer_state == "keep" and (name := config.federated.lora_aggregation) in reasons:
            raise ConfigError(
                f'training.optimizer_state: "keep" {reasons[name]} under federated.lora_aggregation "{name}"; '
                'set optimizer_state "reset", or another lora_aggregation'
            )
        if config.lora.rank_per_client and config.federated.lora_aggregation not in OF_RANKS:
            raise ConfigError(
                f'lora.rank_per_client: lora_aggregation "{config.federated.lora_aggregation}" takes the mean of each '
                "number of A and B, and a client of smaller rank has none beyond its own; set "
                f"federated.lora_aggregation to {', '.join(OF_RANKS[:-1])} or {OF_RANKS[-1]}"
            )
        if config.federated.local_method == "scaffold" and (reason := config.training.not_plain_sgd()):
            raise ConfigError(
                'federated.local_method: "scaffold" takes the mean gradient from how far plain SGD moves the weights, '
                f"which {reason} first"
            )
        return config

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a JSON or TOML file (by suffix).

        Raises:
          ConfigError: in one line that names the file.
        """
        path = Path(path)
        values = config_files.read_object(path)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{error} (in {path})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write indented JSON, whole or not at all; `load` gives back an equal config."""
        if Path(path).suffix != ".json":
            raise ConfigError(f"{path}: a config is saved as JSON; choose a name that ends with .json")
        self.validate_all()
        try:
            atomic.write_json(Path(path), self.to_dict())
        except OSError as error:
            raise ConfigError(f"{path}: cannot write the config: {error.strerror}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain nested objects, as JSON has them."""
        return self.model_dump(warnings=False)  # what is wrong is for validate_all to say

    def validate_all(self) -> None:
        """Check all of it anew: the sum of the splits and lists changed in place escape the check on assignment.

        Raises:
          ConfigError: in one line.
        """
        type(self).from_dict(self.to_dict())

    def with_overrides(self, assignments: list[str]) -> Self:
        """Another config in which assignments such as "federated.num_rounds=3" or "seed=1" hold.

        They are checked together, so their order does not matter.
        """
        values = self.to_dict()
        config_files.override(values, assignments)
        return self.from_dict(values)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema with the description, default, limits and unit of each field."""
        return cls.model_json_schema()

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result: those of place and machinery are left out."""
        values = self.to_dict()
        for section, names in _NOT_IN_DIGEST.items():
            for name in names:
                del (values[section] if section else values)[name]
        del values["tracking"]
        return values

    def to_run_spec(self) -> recipe.RunSpec:
        """What a worker must know of this config."""
        data = self.data.model_dump(exclude={"dataset_path"})
        lora = self.lora.model_dump(exclude={"rank_per_client"})
        lists = ("target_modules", "layers_to_transform")
        lora |= {name: None if lora[name] is None else tuple(lora[name]) for name in lists}
        return recipe.RunSpec(
            experiment_name=self.experiment_name,
            seed=self.seed,
            model=recipe.ModelSpec(name=self.model.model_name, max_length=self.model.max_length),
            lora=recipe.LoRASpec(**lora, core=self.federated.lora_aggregation == "fed_sb"),
            training=recipe.TrainingRecipe(
                **self.training.model_dump(exclude={"clients_per_batch"}),
                factors="both",
                shared=self.federated.shared(),
                method=self.federated.method_spec(),
            ),
            data=recipe.DataSpec(**data),
            generation=recipe.GenerationSpec(
                prompts=tuple(self.generation.prompts),
                max_new_tokens=self.generation.max_new_tokens,
                temperature=self.generation.temperature,
            ),
            upload=self.federated.upload_spec(),
            download=self.federated.download_spec(),
        )


#: section -> fields that do not change a run's result; "" is the top
_NOT_IN_DIGEST = {
    "": ("output_dir", "log_dir", "device"),
    "model": ("cache_dir",),
    "federated": ("num_workers", "start_timeout_s", "stall_timeout_s"),
    "generation": ("every",),
}


def get_default_config() -> ExperimentConfig:
    """A config with every default."""
    return ExperimentConfig()


def resolve_dataset_path(value: str) -> Path:
    """The CSV that `data.dataset_path` means: "bundled" is the sample of support tweets that comes with fedmq."""
    return Path(__file__).parent / "assets" / "support_tweets.csv" if value == "bundled" else Path(value)


def bundled_config(name: str) -> Path:
    """A file of configs/, which the wheel carries as `fedmq.configs`: "quickstart.json", for one."""
    return Path(str(importlib.resources.files("fedmq.configs").joinpath(name)))
