"""A run's folder as something to use: generate, evaluate, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.config import ExperimentConfig
from fedmq.data.reading import read_filtered
from fedmq.data.shards import open_split
from fedmq.errors import ConfigError, DataError, StorageError
from fedmq.learning.evaluate import evaluate
from fedmq.learning.generate import generate
from fedmq.learning.models import LanguageModel, load_for_inference, resolve_device
from fedmq.storage.checkpoint import checkpoint_of


class FinishedRun:
    """The global model of RUN_DIR: the final one, or the newest that was kept."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        if not (self.run_dir / "config.json").is_file():
            raise StorageError(f"{run_dir} is not a run's folder: it has no config.json")
        self.config = ExperimentConfig.load(self.run_dir / "config.json")
        self.checkpoint = checkpoint_of(self.run_dir)

    def model(self, device: str | None = None) -> LanguageModel:
        """Base and adapter, loaded."""
        found, _ = resolve_device(device or self.config.device)
        return load_for_inference(
            self.config.model.model_name,
            self.checkpoint,
            device=found,
            max_length=self.config.model.max_length,
            cache_dir=self.config.model.cache_dir,
        )

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        device: str | None = None,
    ) -> list[str]:
        """Each prompt with its continuation; None takes the run's setting."""
        defaults = self.config.generation
        texts = generate(
            self.model(device),
            prompts,
            max_new_tokens=max_new_tokens or defaults.max_new_tokens,
            temperature=defaults.temperature if temperature is None else temperature,
            seed=self.config.seed if seed is None else seed,
        )
        return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]

    def evaluate(self, csv: str | None = None, device: str | None = None) -> dict[str, Any]:
        """Score the run's test split, or all rows of a CSV that pass the run's filters.

        Returns:
          eval_loss (mean NLL in nats per token, EOS included), perplexity, num_examples, num_tokens.
        """
        model = self.model(device)
        texts: Sequence[np.ndarray]
        if csv is not None:
            rows = read_filtered(Path(csv), self.config.to_run_spec().data).frame
            texts = model.tokenizer.encode(rows["text"].tolist(), model.max_length)
        elif (self.run_dir / "data" / "test").is_dir():
            texts = open_split(self.run_dir / "data" / "test", "test")
        else:
            raise DataError(f"{self.run_dir} has no test shard (its workers had data of their own): give --data CSV")
        result = evaluate(model, texts, batch_size=self.config.training.batch_size)
        return {
            "eval_loss": result.eval_loss,
            "perplexity": result.perplexity,
            "num_examples": result.num_examples,
            "num_tokens": result.num_tokens,
        }

    def export(self, out: Path, merge: bool) -> None:
        """Write a PEFT adapter folder, or a plain transformers folder.

        Raises:
          ConfigError: `out` holds something already.
        """
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"--out {out} exists and is not empty: name a new folder")
        model = self.model("cpu")
        if merge:
            model.save_merged(out)
        else:
            model.save_adapter(out)
