"""A run's folder as something to use: its model, generate, evaluate.

The model libraries take seconds to import: they are, when all that can be refused has been.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmq.codec.base_link import BaseLink
from fedmq.codec.peft_file import as_peft
from fedmq.config import ExperimentConfig
from fedmq.data.shards import open_split, read_info, read_partition
from fedmq.errors import ConfigError, DataError, ModelError, RemoteProtocolError, StorageError
from fedmq.loading import loading
from fedmq.storage.checkpoint import CONFIG, WEIGHTS, checkpoint_files
from fedmq.storage.journal import Journal
from fedmq.storage.personal import FOLDER, folders, where_own_models_are
from fedmq.storage.run_folder import DATABASE

if TYPE_CHECKING:
    from fedmq.learning.models import LanguageModel


def own_model(run_dir: Path, client: str | None, personal: bool) -> tuple[Path, Path] | None:
    """The files of a client's own model; None where all clients have one.

    Raises:
      ConfigError: each has its own and none is named, or the other way round; or this client's is not here.
    """
    if not personal:
        if client is not None:
            raise ConfigError(
                f"{run_dir} has one model, of all clients: leave the client out, {client} has none of its own"
            )
        return None
    here = folders(run_dir / FOLDER)
    none = f'{run_dir} has no model of all clients (federated.lora_aggregation is "fedsa" or "local")'
    if not here:
        raise ConfigError(f"{none}; {where_own_models_are(run_dir)}")
    if client is None:
        raise ConfigError(f"{none}: say whose, such as {min(here)} (--client, from Python client=)")
    if client not in here:
        raise ConfigError(
            f"{run_dir}: {client} has no model of its own here: no such client, or no training of it has counted "
            f"(here are {', '.join(list(here)[:10])})"
        )
    return here[client] / WEIGHTS, here[client] / CONFIG


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); try again") from None


def _as_peft(path: Path) -> bytes:
    try:
        content = as_peft(_content(path))
    except RemoteProtocolError as error:
        raise StorageError(f"{path} is damaged ({error}): put it back, or run again") from None
    assert isinstance(content, bytes)
    return content


class FinishedRun:
    """The newest global model of RUN_DIR, with the base that it was trained on. Nothing is written into RUN_DIR.

    Args:
      run_dir: OUTPUT_DIR.
      client: whose model, where each client has its own; None where all have one.

    Raises:
      StorageError: RUN_DIR holds no run, or one that has no model yet.
      ConfigError: there is no such model.
    """

    def __init__(self, run_dir: str, client: str | None = None) -> None:
        self.run_dir, self.client = Path(run_dir), client
        journal = Journal.open(self.run_dir / DATABASE, read_only=True)
        try:
            self.config = ExperimentConfig.from_dict(json.loads(journal.require("config")))
            version = journal.last_committed()
            if version is None:
                raise StorageError(f"{run_dir} has no model yet: its run ended before the first adapter was made")
            own = own_model(self.run_dir, client, self.config.federated.shared() != "both")
            self.version = version if own is None else int(own[0].parent.name.removeprefix("round_"))
            self._files = own or checkpoint_files(self.run_dir, version, journal.digest(version))
            self._links = [self.run_dir / "blobs" / link for link in journal.links(version)]
            self._base_digest = journal.require("base_digest")
            self._partition = json.loads(journal.get("data") or "{}").get("inputs")
        finally:
            journal.close()

    @property
    def complete(self) -> bool:
        """Whether the model is that of the last round."""
        return self.version == self.config.federated.num_rounds

    def model(self, device: str | None = None) -> LanguageModel:
        """Base and adapter, loaded.

        Raises:
          StorageError: the model's files were removed meanwhile, by its run that goes on.
          ModelError: the base is another than the run's.
        """
        with loading():
            from fedmq.learning.devices import resolve_device
            from fedmq.learning.models import load_for_inference

        name, training = self.config.model.model_name, self.config.training
        found, _ = resolve_device(device or self.config.device)
        with tempfile.TemporaryDirectory() as folder:
            # A model between two checkpoints is only a blob: it is copied, for it to have the names that PEFT wants.
            weights, config = self._files
            Path(folder, WEIGHTS).write_bytes(_as_peft(weights))
            Path(folder, CONFIG).write_bytes(_content(config))
            model = load_for_inference(
                name,
                Path(folder),
                device=found,
                max_length=self.config.model.max_length,
                cache_dir=self.config.model.cache_dir,
                # As it was trained, but for what this device may not have.
                engine="hf" if training.engine == "hf" else "auto",
                precision=training.precision if training.precision in ("fp32", "bf16") else "auto",
            )
        if model.base_digest != self._base_digest:
            raise ModelError(
                f"base model {name!r} is not the one that {self.run_dir} was trained on (SHA-256 "
                f"{model.base_digest[:12]}, the run's {self._base_digest[:12]}): put that one back, or run again"
            )
        model.grow([str(link) for link in self._links], lambda link: BaseLink.decoded(_content(Path(link))).factors)
        return model

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        device: str | None = None,
        top_p: float = 1.0,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """Each prompt with its continuation; None takes the run's setting.

        Args:
          prompts: starts of texts.
          max_new_tokens: of each continuation, which EOS may end before.
          temperature: of sampling; 0 takes the most likely token each time.
          seed: of sampling: with it, what follows a prompt depends on the model and the prompt alone.
          device: "cuda", "cuda:N", "cpu" or "mps".
          top_p: of sampling: from the most likely tokens that together have this probability.
          on_text: told of each piece of a continuation as it is made, with the position of its prompt.

        Raises:
          ConfigError: a setting is out of range, or a prompt does not fit into the model's context.
        """
        defaults = self.config.generation
        temperature = defaults.temperature if temperature is None else temperature
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ConfigError(f"temperature: got {temperature:g}, expected a number >= 0; 0 = greedy")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p: got {top_p:g}, expected a probability > 0 and <= 1; 1 = all tokens")
        from fedmq.learning.generate import generate

        texts = generate(
            self.model(device),
            prompts,
            max_new_tokens=defaults.max_new_tokens if max_new_tokens is None else max_new_tokens,
            temperature=temperature,
            seed=self.config.seed if seed is None else seed,
            top_p=top_p,
            on_text=on_text,
        )
        return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]

    def evaluate(self, csv: str | None = None, device: str | None = None) -> dict[str, Any]:
        """Score the run's test split, or all rows of a CSV that pass the run's filters.

        A client's own model is scored on what was held out of its client's texts, in place of the test split.

        Returns:
          eval_loss (mean NLL in nats per token, EOS included), perplexity, num_examples, num_tokens.
        """
        rows: list[str] | None = None
        data = self.run_dir / "data"
        if csv is not None:
            from fedmq.data.reading import read_filtered

            rows = read_filtered(Path(csv), self.config.to_run_spec().data).frame["text"].tolist()
        elif self._partition is None:
            raise DataError(f"{self.run_dir} has no test shard (its workers had data of their own): give --data CSV")
        elif read_partition(data)["inputs"] != self._partition:
            raise DataError(f"{data} is not the data that this run was made with: give --data CSV")
        from fedmq.learning.evaluate import evaluate

        model = self.model(device)
        texts: Sequence[np.ndarray] = (
            self._held_out(data) if rows is None else model.tokenizer.encode(rows, model.max_length)
        )
        result = evaluate(model, texts, batch_size=self.config.training.batch_size)
        return {
            "eval_loss": result.eval_loss,
            "perplexity": result.perplexity,
            "num_examples": result.num_examples,
            "num_tokens": result.num_tokens,
        }

    def _held_out(self, data: Path) -> Sequence[np.ndarray]:
        if self.client is None:
            return open_split(data / "test", "test")
        folder = data / "clients" / self.client
        return open_split(folder, "test" if "test" in read_info(folder).splits else "val")
