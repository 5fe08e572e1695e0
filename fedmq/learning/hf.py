"""Engine "hf": local training on the Trainer of the `transformers` library, for any model that it knows."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fedmq.algorithms.lora_core import is_of
from fedmq.learning.batching import SeededOrder, TextDataset, collate, lengths, token_nll, usable_texts
from fedmq.learning.evaluate import evaluate
from fedmq.learning.local_term import LocalTerm, method_of
from fedmq.learning.models import LanguageModel
from fedmq.learning.optimizers import kept, remembered, restore
from fedmq.learning.outcome import Stopped, TrainResult, diverged, out_of_memory
from fedmq.learning.precision import require_precision
from fedmq.learning.share import Share
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.recipe import Factors, TrainingRecipe
from fedmq.rng import derive

log = logging.getLogger(__name__)


def train_hf(
    lm: LanguageModel,
    share: Share,
    recipe: TrainingRecipe,
    on_step: Callable[[int, int], None] | None,
    stopping: Callable[[], bool],
) -> TrainResult:
    """Train the adapter of `lm` in place; see `fedmq.learning.train.train`.

    Out of memory, the whole is begun anew with half the batch and twice the accumulation, twice.
    """
    start = lm.get_adapter()
    for halvings in range(3):
        try:
            return _train(lm, share, recipe, on_step, stopping)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or halvings == 2 or recipe.batch_size == 1:
                raise
        lm.set_adapter(start)
        # Half of it, or the next smaller part that leaves the effective batch as it is.
        size = max(size for size in range(1, recipe.batch_size // 2 + 1) if recipe.batch_size % size == 0)
        every = recipe.gradient_accumulation_steps * recipe.batch_size // size
        recipe = replace(recipe, batch_size=size, gradient_accumulation_steps=every)
        log.warning("out of memory: beginning anew with batches of %d texts", recipe.batch_size)
    raise AssertionError("unreachable: the last try returns or raises")


def _train(
    lm: LanguageModel,
    share: Share,
    recipe: TrainingRecipe,
    on_step: Callable[[int, int], None] | None,
    stopping: Callable[[], bool],
) -> TrainResult:
    asked = require_precision(recipe, lm.device)
    precision = "fp32" if asked == "auto" else asked
    sizes = lengths(share.texts)
    chosen = usable_texts(sizes, recipe.max_samples_per_client, share.subset_seed)
    watch = _Watch(lm, recipe, share.scored, on_step, stopping, share.snapshot_dir)
    use_cache = lm.model.config.use_cache
    started = time.monotonic()
    with _own_random_state(lm), library_warnings_to_log(), _trained(lm, recipe.factors):
        arguments = _arguments(recipe, lm.device, precision, share.seed)
        trainer = _Trainer(lm, TextDataset(share.texts, chosen), arguments, recipe, share, watch)
        try:
            trainer.train()
        finally:
            # The Trainer marks the model as prepared and wraps its forward in autocast: left there, the next call
            # would train in this one's precision, or silently in float32.
            for mark in ("_is_accelerate_prepared", "_original_forward", "forward"):
                vars(lm.model).pop(mark, None)
            lm.model.zero_grad(set_to_none=True)
            lm.model.config.use_cache = use_cache
            lm.model.gradient_checkpointing_disable()
            lm.model.eval()
    num_tokens = int((sizes[chosen] - 1).sum()) * recipe.num_epochs
    return TrainResult(
        float(trainer.nll) / num_tokens,
        len(chosen),
        num_tokens,
        trainer.state.global_step,
        time.monotonic() - started,
        trainer.state.log_history,
        trainer.memory() if recipe.optimizer_state == "keep" else {},
    )


class _Trainer(Trainer):
    """The library's loop with our order, our loss, which is a sum over targets."""

    def __init__(
        self,
        lm: LanguageModel,
        dataset: TextDataset,
        arguments: TrainingArguments,
        recipe: TrainingRecipe,
        share: Share,
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
        self._weights, self._remembered = lm.weights(), remembered(share.memory, recipe.factors)
        method = method_of(recipe.method)
        push = {name: torch.tensor(value, dtype=torch.float32) for name, value in method.push(share.memory).items()}
        pushes = [push[name].to(weight) if push else None for name, weight in self._weights.items()]
        self._term = LocalTerm(method.pull, list(self._weights.values()), pushes)
        self._in_loss = method.in_loss
        if not method.in_loss:
            watch.after_clipping = self._term.add
        self._batch_size = recipe.batch_size
        self._order = SeededOrder(len(dataset), derive(share.seed, "order") if recipe.shuffle_dataset else None)
        # Apple's GPUs have no float64.
        self.nll = torch.zeros((), device=lm.device, dtype=torch.float32 if lm.device == "mps" else torch.float64)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            self.train_dataset, self._batch_size, sampler=self._order, collate_fn=collate
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        step, slots = self._remembered
        for name, weight in self._weights.items():
            if not weight.requires_grad:
                continue
            # Copies: the optimiser works in place, and a training that is begun anew needs what there was.
            own = {slot: torch.tensor(named[name]).to(weight) for slot, named in slots.items() if name in named}
            restore(weight, optimizer, step, own)
        return optimizer

    def memory(self) -> dict[str, np.ndarray]:
        """What the optimiser would go on from."""
        return kept(self._weights, self.optimizer.state, lambda name, value: {name: value.cpu().numpy().copy()})

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._in_loss and self.accelerator.sync_gradients:  # the last batch of a step; clipping comes next
            scaler = self.accelerator.scaler
            self._term.add(1.0 if scaler is None else scaler.get_scale())
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counting them walks over all parameters in every step

    def _mean_nll(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        # num_items_in_batch: the targets of all batches that are accumulated into this step.
        nll = token_nll(outputs.logits, labels).sum()
        if not torch.isfinite(nll):
            step, rate = self.state.global_step, self._get_learning_rate()
            raise diverged(f"the training loss is {float(nll)} at", step, self.state.max_steps, rate)
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
        self.after_clipping: Callable[[], None] = lambda: None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopping():
            raise Stopped("training was told to stop")

    on_substep_end = on_step_begin

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.after_clipping()

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
        optim="sgd" if recipe.local_optimizer == "sgd" else "adamw_torch",
        optim_args=f"momentum={recipe.sgd_momentum}" if recipe.local_optimizer == "sgd" else None,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


@contextmanager
def _trained(lm: LanguageModel, factors: Factors) -> Iterator[None]:
    """Of the LoRA factors only these have gradients in the block."""
    frozen = [weight for name, weight in lm.weights().items() if not is_of(name, factors)]
    try:
        for weight in frozen:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


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
