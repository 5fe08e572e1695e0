"""Local training of one client in one round: engine "hf", on the Trainer of the `transformers` library."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fedmq.errors import ConfigError, DataError, FedmqError
from fedmq.learning.batching import SeededOrder, TextDataset, collate, lengths, token_nll, usable_texts
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.recipe import TrainingRecipe
from fedmq.rng import derive


class Stopped(FedmqError):
    """Training ended because it was told to; the adapter is somewhere on its way."""


class TrainResult(NamedTuple):
    """What one local training did.

    Attributes:
      train_loss: mean negative log-likelihood per target over all steps, in nats.
      num_examples: texts trained on (each once, however many epochs).
      num_tokens: targets seen, over all epochs.
      num_steps: optimiser steps.
      train_seconds: wall time.
      log_history: the Trainer's records: loss, grad_norm and learning_rate every `logging_steps`, eval_loss and
        eval_perplexity every `eval_steps`.
    """

    train_loss: float
    num_examples: int
    num_tokens: int
    num_steps: int
    train_seconds: float
    log_history: list[dict[str, Any]]


def never() -> bool:
    """The default for `stopping`."""
    return False


def train(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    recipe: TrainingRecipe,
    *,
    seed: int,
    subset_seed: int = 0,
    val: Sequence[np.ndarray] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    stopping: Callable[[], bool] = never,
    snapshot_dir: Path | None = None,
) -> TrainResult:
    """Train the adapter of `lm` from where it is, with a fresh optimiser, in place.

    The result depends on the adapter, the texts, the recipe, the seeds and the number of threads
    alone; the process's own random state is left as it was.

    Args:
      lm: base and adapter; only the adapter changes.
      texts: 1-D integer arrays of token ids, EOS last.
      recipe: `num_threads` holds during the call; None leaves torch's setting.
      seed: 32 bits; order and dropout are drawn from it.
      subset_seed: decides which texts `max_samples_per_client` leaves; the same in all rounds of a client.
      val: scored every `eval_steps` steps, if there are any.
      on_step: called with (optimiser steps done, steps in all).
      stopping: asked before every batch.
      snapshot_dir: every `save_steps` steps the adapter is written to snapshot_dir/step_N.

    Raises:
      DataError: no text has a target.
      ConfigError: a precision that this device has not.
      Stopped: `stopping` said so.
    """
    precision = require_precision(recipe, lm.device)
    sizes = lengths(texts)
    chosen = usable_texts(sizes, recipe.max_samples_per_client, subset_seed)
    if not len(chosen):
        raise DataError(f"nothing to train on: none of the {len(texts)} texts has two tokens or more")
    scored = val if val is not None and (lengths(val) >= 2).any() else None
    watch = _Watch(lm, recipe, scored, on_step, stopping, snapshot_dir)
    use_cache = lm.model.config.use_cache
    started = time.monotonic()
    with _own_random_state(lm), _threads(recipe.num_threads), library_warnings_to_log():
        arguments = _arguments(recipe, lm.device, precision, seed)
        trainer = _Trainer(lm, TextDataset(texts, chosen), arguments, recipe, seed, watch)
        try:
            trainer.train()
        finally:
            # The Trainer marks the model as prepared and wraps its forward in autocast: left there, the next call
            # would train in this one's precision, or silently in float32.
            for mark in ("_is_accelerate_prepared", "_original_forward", "forward"):
                vars(lm.model).pop(mark, None)
            lm.model.zero_grad(set_to_none=True)
            lm.model.config.use_cache = use_cache
            lm.model.eval()
    num_tokens = int((sizes[chosen] - 1).sum()) * recipe.num_epochs
    return TrainResult(
        float(trainer.nll) / num_tokens,
        len(chosen),
        num_tokens,
        trainer.state.global_step,
        time.monotonic() - started,
        trainer.state.log_history,
    )


class _Trainer(Trainer):
    """The library's loop with our order, our loss, which is a sum over targets."""

    def __init__(
        self,
        lm: LanguageModel,
        dataset: TextDataset,
        arguments: TrainingArguments,
        recipe: TrainingRecipe,
        seed: int,
        watch: _Watch,
    ) -> None:
        super().__init__(
            model=lm.model,
            args=arguments,
            train_dataset=dataset,
            data_collator=collate,
            compute_loss_func=self._mean_nll,
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)  # it prints
        # A new accelerator has nothing to free, and its full garbage collection takes 0.4 s of every call.
        self.accelerator.free_memory = tuple  # type: ignore[method-assign]
        self._batch_size = recipe.batch_size
        self._order = SeededOrder(len(dataset), derive(seed, "order") if recipe.shuffle_dataset else None)
        # Apple's GPUs have no float64.
        self.nll = torch.zeros((), device=lm.device, dtype=torch.float32 if lm.device == "mps" else torch.float64)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            self.train_dataset, self._batch_size, sampler=self._order, collate_fn=collate
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counting them walks over all parameters in every step

    def _mean_nll(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        # num_items_in_batch: the targets of all batches that are accumulated into this step.
        nll = token_nll(outputs.logits, labels).sum()
        self.nll += nll.detach()
        return nll / num_items_in_batch


class _Watch(TrainerCallback):
    """Progress, stopping, evaluation and snapshots.

    The Trainer's own checkpoints would pickle; its own evaluation would average batches, not targets.
    """

    def __init__(
        self,
        lm: LanguageModel,
        recipe: TrainingRecipe,
        val: Sequence[np.ndarray] | None,
        on_step: Callable[[int, int], None] | None,
        stopping: Callable[[], bool],
        snapshot_dir: Path | None,
    ) -> None:
        self.lm, self.recipe, self.val = lm, recipe, val
        self.on_step, self.stopping, self.snapshot_dir = on_step, stopping, snapshot_dir

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopping():
            raise Stopped("training was told to stop")

    on_substep_end = on_step_begin

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, recipe = state.global_step, self.recipe
        if self.val is not None and step % recipe.eval_steps == 0:
            result = evaluate(self.lm, self.val, batch_size=recipe.batch_size)
            state.log_history.append(
                {
                    "eval_loss": result.eval_loss,
                    "eval_perplexity": result.perplexity,
                    "epoch": state.epoch,
                    "step": step,
                }
            )
        if self.snapshot_dir is not None and step % recipe.save_steps == 0:
            self.lm.save_adapter(self.snapshot_dir / f"step_{step}")
        if self.on_step is not None:
            self.on_step(step, state.max_steps)


@dataclass
class _OneDevice(TrainingArguments):
    """Training arguments for the device that the model is on: by itself the Trainer takes every GPU it sees."""

    only_device: str = "cpu"
    #: It makes no output folder, in which it would leave nothing.
    should_save = False

    @cached_property
    def _setup_devices(self) -> torch.device:
        _ = super()._setup_devices  # sets distributed_state
        device = torch.device(self.only_device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._n_gpu = 0 if device.type == "cpu" else 1
        self.distributed_state.device = device
        return device


def _arguments(recipe: TrainingRecipe, device: str, precision: str, seed: int) -> TrainingArguments:
    return _OneDevice(
        only_device=device,
        use_cpu=device == "cpu",
        seed=seed,
        num_train_epochs=recipe.num_epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        optim="adamw_torch",
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,  # a loss that diverged is shown as it is
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def require_precision(recipe: TrainingRecipe, device: str) -> str:
    """The precision that a recipe means on a device: "fp32", "bf16" or "fp16".

    Raises:
      ConfigError: the device has not got it.
    """
    asked = recipe.precision
    if recipe.fp16 and asked not in ("auto", "fp16"):
        raise ConfigError(f"training.fp16 is true and training.precision is {asked!r}: give one of them")
    precision = "fp16" if recipe.fp16 else "fp32" if asked == "auto" else asked
    if precision == "fp16" and not device.startswith("cuda"):
        raise ConfigError(
            f'training.fp16 / training.precision "fp16" needs a CUDA device, this worker trains on '
            f'{device!r}: set training.precision to "bf16" or "fp32"'
        )
    if precision == "bf16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        raise ConfigError(f'training.precision "bf16" is not known to {device!r}: set it to "fp16" or "fp32"')
    return precision


@contextmanager
def _own_random_state(lm: LanguageModel) -> Iterator[None]:
    """Put the process's random states back afterwards: the Trainer seeds all of them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(lm.cuda_devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)
