"""Local training of clients in one round, by the engine that the model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmq import tensors
from fedmq.algorithms.personal import kept_part, personal
from fedmq.errors import ConfigError, DataError
from fedmq.learning.batching import lengths
from fedmq.learning.evaluate import evaluate
from fedmq.learning.fast.group import Member, train_group
from fedmq.learning.fast.passes import Passes
from fedmq.learning.fast.schedule import Schedule
from fedmq.learning.hf import train_hf
from fedmq.learning.local_term import method_of
from fedmq.learning.models import LanguageModel
from fedmq.learning.outcome import Diverged, Stopped, TrainResult, diverged
from fedmq.learning.precision import require_precision
from fedmq.learning.share import Share
from fedmq.recipe import TrainingRecipe
from fedmq.tensors import NamedTensors

__all__ = ["Diverged", "Share", "Stopped", "TrainResult", "remembers", "train", "train_together"]


Outcome = tuple[TrainResult, dict[str, np.ndarray]] | Diverged


def never() -> bool:
    """The default for `stopping`."""
    return False


def remembers(recipe: TrainingRecipe) -> bool:
    """Whether a client's training goes on from its last one's `TrainResult.memory`."""
    return recipe.optimizer_state == "keep" or recipe.shared != "both" or method_of(recipe.method).after is not None


def train(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    recipe: TrainingRecipe,
    *,
    seed: int,
    subset_seed: int = 0,
    val: Sequence[np.ndarray] | None = None,
    memory: NamedTensors | None = None,
    on_step: Callable[[int, int], None] | None = None,
    stopping: Callable[[], bool] = never,
    snapshot_dir: Path | None = None,
) -> TrainResult:
    """Train the adapter of `lm` from where it is, in place; the optimiser is fresh, or goes on from the memory.

    The result depends on the adapter, the texts, the memory, the recipe, the seeds, the engine and the number of
    threads alone; the process's own random state is left as it was.

    Args:
      lm: base and adapter; only the adapter changes.
      texts, seed, subset_seed, val, memory, snapshot_dir: as in `Share`.
      recipe: `num_threads` holds during the call; None leaves torch's setting.
      on_step: called with (optimiser steps done, steps in all).
      stopping: asked before every batch.

    Raises:
      DataError: no text has a target.
      ConfigError: a precision that this device has not, or an engine or a precision that the model was not loaded for.
      Diverged: the loss is not finite; the message has the step and the learning rate.
      Stopped: `stopping` said so.
      MemoryError: a quarter of a batch does not fit (or the device's own error for that).
    """
    share = Share(texts, seed, subset_seed, val, snapshot_dir, memory or {})
    (outcome,) = train_together(lm, [share], recipe, on_step=on_step, stopping=stopping)
    if isinstance(outcome, Diverged):
        raise outcome
    result, adapter = outcome
    lm.set_adapter(adapter)
    return result


def train_together(
    lm: LanguageModel,
    shares: Sequence[Share],
    recipe: TrainingRecipe,
    *,
    on_step: Callable[[int, int], None] | None = None,
    stopping: Callable[[], bool] = never,
) -> list[Outcome]:
    """Train one adapter for each share, from its own `start` or that of `lm`, which stays as it is.

    Engine "fast" takes them through the base together, engine "hf" one after another. Either way
    each result is that of its share alone, up to rounding (tested to 1e-4).

    Args:
      lm, recipe, on_step, stopping: as of `train`; steps in all are the longest share's, or the sum.
      shares: one or more.

    Returns:
      For each share its result and adapter (float32, PEFT names), or how it diverged.

    Raises:
      As `train` does, but for Diverged.
    """
    for share in shares:
        if not len(share.texts) or not (lengths(share.texts) >= 2).any():
            raise DataError(f"nothing to train on: none of the {len(share.texts)} texts has two tokens or more")
    passes, given = _passes_for(lm, recipe), lm.get_adapter()
    # What a client keeps for itself takes the place of what everybody has.
    starts = [personal(given if share.start is None else share.start, share.memory) for share in shares]
    with _threads(recipe.num_threads):
        if passes is None:
            outcomes = _one_by_one(lm, shares, starts, recipe, on_step, stopping)
        else:
            members = [_member(lm, share, start) for share, start in zip(shares, starts, strict=True)]
            outcomes = train_group(passes, members, recipe, on_step=on_step, stopping=stopping)
    return [
        _with_memory(share, recipe, start, _require_finite(share, recipe, outcome))
        for share, start, outcome in zip(shares, starts, outcomes, strict=True)
    ]


def _with_memory(share: Share, recipe: TrainingRecipe, start: NamedTensors, outcome: Outcome) -> Outcome:
    """The same, with what the local method remembers of it, and what the client keeps for itself."""
    if isinstance(outcome, Diverged):
        return outcome
    result, adapter = outcome
    memory = {**result.memory, **kept_part(adapter, recipe.shared)}
    after = method_of(recipe.method).after
    if after is not None:
        schedule = Schedule(share.texts, recipe, share.seed, share.subset_seed)
        rates = sum(map(schedule.learning_rate, range(schedule.num_steps)))
        memory |= after(share.memory, tensors.subtract(adapter, start), rates)
    return result._replace(memory=memory), adapter


def _require_finite(share: Share, recipe: TrainingRecipe, outcome: Outcome) -> Outcome:
    """What the last step leaves, no loss is computed of."""
    if isinstance(outcome, Diverged) or all(np.isfinite(value).all() for value in outcome[1].values()):
        return outcome
    schedule = Schedule(share.texts, recipe, share.seed, share.subset_seed)
    last = schedule.num_steps - 1
    return diverged("the adapter is not finite after", last, schedule.num_steps, schedule.learning_rate(last))


def _passes_for(lm: LanguageModel, recipe: TrainingRecipe) -> Passes | None:
    """What engine "fast" trains with; None where the recipe or the model is for engine "hf"."""
    asked = require_precision(recipe, lm.device)
    if recipe.engine == "hf":
        return None
    if lm.packed is None:
        if recipe.engine == "fast":
            raise ConfigError(f'training.engine is "fast", and this model was loaded for another: {lm.engine_note}')
        return None
    loaded = "bf16" if lm.packed.dtype is torch.bfloat16 else "fp32"
    if asked not in ("auto", loaded):
        raise ConfigError(f'training.precision is "{asked}", and the weights of this model were loaded in {loaded}')
    return lm.passes


def _member(lm: LanguageModel, share: Share, start: NamedTensors) -> Member:
    val, folder = share.scored, share.snapshot_dir

    def score(adapter: NamedTensors) -> dict[str, Any]:
        assert val is not None
        result = evaluate(lm, val, batch_size=1, adapter=adapter)
        return {"eval_loss": result.eval_loss, "eval_perplexity": result.perplexity}

    def save(step: int, adapter: NamedTensors) -> None:
        assert folder is not None
        lm.save_adapter(folder / f"step_{step}", adapter)

    return Member(
        start,
        share.texts,
        share.seed,
        share.subset_seed,
        share.memory,
        lm.trunk(share.texts),
        None if val is None else score,
        None if folder is None else save,
    )


def _one_by_one(
    lm: LanguageModel,
    shares: Sequence[Share],
    starts: Sequence[NamedTensors],
    recipe: TrainingRecipe,
    on_step: Callable[[int, int], None] | None,
    stopping: Callable[[], bool],
) -> list[Outcome]:
    given = lm.get_adapter()
    outcomes: list[Outcome] = []
    steps = [Schedule(share.texts, recipe, share.seed, share.subset_seed).num_steps for share in shares]

    def report(before: int) -> Callable[[int, int], None] | None:
        return None if on_step is None else lambda step, _: on_step(before + step, sum(steps))

    try:
        for k, (share, start) in enumerate(zip(shares, starts, strict=True)):
            lm.set_adapter(start)
            try:
                result = train_hf(lm, share, recipe, report(sum(steps[:k])), stopping)
                outcomes.append((result, lm.get_adapter()))
            except Diverged as failure:
                outcomes.append(failure)
    finally:
        lm.set_adapter(given)
    return outcomes


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)
