"""One client: its texts and its local work on a language model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.errors import DataError
from fedmq.learning.evaluate import EvaluationResult, evaluate
from fedmq.learning.generate import generate
from fedmq.learning.models import LanguageModel
from fedmq.learning.share import Share
from fedmq.learning.train import Diverged, Outcome, TrainResult, never, train_together
from fedmq.recipe import TrainingRecipe
from fedmq.rng import derive_seed
from fedmq.tensors import NamedTensors

log = logging.getLogger(__name__)


class FederatedClient:
    """A client's local work: train, evaluate, generate, and the adapter in and out.

    Several clients may share one model: whoever works next sets its weights first.

    Args:
      client_id: its name in logs and records, for example "client_0".
      model: loaded once, shared by the clients of a process.
      train, val, test: texts as 1-D integer arrays of token ids, EOS last.
      seed: of the run; with the client's name it decides which texts `max_samples_per_client` leaves, in all rounds.
      log_dir: the Trainer's records are appended to log_dir/CLIENT_ID/training.jsonl and its snapshots
        (`save_steps`) written to log_dir/CLIENT_ID/round_N; None keeps neither.

    Attributes:
      history: one dict for each call of `train`.

    Example:
      >>> client = FederatedClient("client_0", model, shard.train, test=shard.test)  # doctest: +SKIP
      >>> client.set_weights(global_adapter)  # doctest: +SKIP
      >>> client.train(recipe, seed=7, round=1).train_loss  # doctest: +SKIP
      3.12
    """

    def __init__(
        self,
        client_id: str,
        model: LanguageModel,
        train: Sequence[np.ndarray],
        val: Sequence[np.ndarray] | None = None,
        test: Sequence[np.ndarray] | None = None,
        *,
        seed: int = 0,
        log_dir: Path | None = None,
    ) -> None:
        self.client_id, self.model = client_id, model
        self.subset_seed = derive_seed(seed, "subset", client=client_id)
        self.splits = {"train": train, "val": val, "test": test}
        self.log_dir = None if log_dir is None else Path(log_dir) / client_id
        self.history: list[dict[str, Any]] = []

    def get_weights(self) -> dict[str, np.ndarray]:
        """A copy of the model's adapter, float32, named as in a PEFT state dict."""
        return self.model.get_adapter()

    def set_weights(self, tensors: NamedTensors) -> None:
        """Overwrite the model's adapter; see `LanguageModel.set_adapter`."""
        self.model.set_adapter(tensors)

    def train(
        self,
        recipe: TrainingRecipe,
        *,
        seed: int,
        round: int,
        memory: NamedTensors | None = None,
        on_step: Callable[[int, int], None] | None = None,
        stopping: Callable[[], bool] = never,
    ) -> TrainResult:
        """Train the adapter on this client's texts; see `fedmq.learning.train.train`.

        Args:
          recipe: section `training` of the configuration.
          seed: 32 bits; decides order and dropout.
          round: for the records.
          memory: of its last training (`TrainResult.memory`); None before its first.
          on_step: called with (steps done, steps in all).
          stopping: asked before every batch.
        """
        (outcome,) = train_clients(
            [self],
            recipe,
            seeds=[seed],
            round=round,
            memories=[memory or {}],
            starts=[self.get_weights()],
            on_step=on_step,
            stopping=stopping,
        )
        if isinstance(outcome, Diverged):
            raise outcome
        result, adapter = outcome
        self.set_weights(adapter)
        return result

    def share(self, seed: int, round: int, memory: NamedTensors, start: NamedTensors) -> Share:
        """Its part in a training; see `fedmq.learning.share.Share`."""
        snapshots = None if self.log_dir is None else self.log_dir / f"round_{round}"
        return Share(self._split("train"), seed, self.subset_seed, self.splits["val"], snapshots, memory, start)

    def record(self, round: int, result: TrainResult) -> None:
        """Keep what a training did in `history` and in the client's log."""
        self.history.append(
            {
                "client_id": self.client_id,
                "round": round,
                "train_loss": result.train_loss,
                "train_samples": result.num_examples,
                "num_tokens": result.num_tokens,
                "num_steps": result.num_steps,
                "train_seconds": result.train_seconds,
            }
        )
        if self.log_dir is not None:
            try:
                self.log_dir.mkdir(parents=True, exist_ok=True)
                with (self.log_dir / "training.jsonl").open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"round": round, **record}) + "\n" for record in result.log_history)
            except OSError as error:
                log.warning("%s cannot be written (%s): the training counts all the same", self.log_dir, error.strerror)

    def evaluate(
        self, split: str = "test", *, batch_size: int = 8, on_step: Callable[[int, int], None] | None = None
    ) -> EvaluationResult:
        """Score the model on one of this client's splits; see `fedmq.learning.evaluate.evaluate`."""
        return evaluate(self.model, self._split(split), batch_size=batch_size, on_step=on_step)

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 50, temperature: float = 0.7, seed: int = 0
    ) -> list[str]:
        """Continue the prompts; see `fedmq.learning.generate.generate`."""
        return generate(self.model, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)

    def save_checkpoint(self, folder: Path) -> None:
        """Write the adapter as a folder that PeftModel.from_pretrained loads."""
        self.model.save_adapter(Path(folder))

    def _split(self, split: str) -> Sequence[np.ndarray]:
        texts = self.splits.get(split)
        if texts is None:
            given = ", ".join(name for name, texts in self.splits.items() if texts is not None)
            raise DataError(f"client {self.client_id!r} has no split {split!r}, only {given}")
        return texts


def train_clients(
    clients: Sequence[FederatedClient],
    recipe: TrainingRecipe,
    *,
    seeds: Sequence[int],
    round: int,
    memories: Sequence[NamedTensors],
    starts: Sequence[NamedTensors],
    on_step: Callable[[int, int], None] | None = None,
    stopping: Callable[[], bool] = never,
) -> list[Outcome]:
    """Train clients of one model together, each from its own adapter; see `fedmq.learning.train.train_together`."""
    shares = [
        client.share(seed, round, known, start)
        for client, seed, known, start in zip(clients, seeds, memories, starts, strict=True)
    ]
    outcomes = train_together(clients[0].model, shares, recipe, on_step=on_step, stopping=stopping)
    for client, outcome in zip(clients, outcomes, strict=True):
        if not isinstance(outcome, Diverged):
            client.record(round, outcome[0])
    return outcomes
