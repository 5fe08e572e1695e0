"""Local training of one or more clients in step, each with its own adapter, data, optimiser state and dropout."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fedmq.algorithms.lora_core import of_factors
from fedmq.learning.fast.adapters import Adapters
from fedmq.learning.fast.passes import Batch, Passes
from fedmq.learning.fast.schedule import Schedule
from fedmq.learning.fast.trunk import Recomputed, Trunk
from fedmq.learning.local_term import LocalTerm, method_of
from fedmq.learning.optimizers import kept, optimizer_of, remembered, restore
from fedmq.learning.outcome import Diverged, Stopped, TrainResult, diverged, out_of_memory
from fedmq.recipe import TrainingRecipe
from fedmq.rng import derive_seed
from fedmq.tensors import NamedTensors

log = logging.getLogger(__name__)
#: A batch that does not fit into memory is cut into halves, and these into halves.
_MAX_PARTS = 4


@dataclass
class Member:
    """A client of a group.

    Attributes:
      start: the adapter that it begins with, float32; of one shape for all of the group.
      texts: 1-D integer arrays of token ids, EOS last.
      seed, subset_seed: as of `fedmq.learning.train.train`.
      memory: what its last training left (`fedmq.learning.share.Share`).
      trunk: cache of its texts' frozen layers, if there is one.
      evaluate: from an adapter to a record for the log, every `eval_steps`; None does not.
      save: keeps an adapter of a step, every `save_steps`; None does not.
    """

    start: NamedTensors
    texts: Sequence[np.ndarray]
    seed: int
    subset_seed: int
    memory: NamedTensors = field(default_factory=dict)
    trunk: Trunk | Recomputed | None = None
    evaluate: Callable[[NamedTensors], dict[str, Any]] | None = None
    save: Callable[[int, NamedTensors], None] | None = None


@dataclass
class _Progress:
    """How far a member is."""

    member: Member
    schedule: Schedule
    steps: Any
    nll: float = 0.0
    window: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    failure: Diverged | None = None

    def runs(self, step: int) -> bool:
        return self.failure is None and step < self.schedule.num_steps


def train_group(
    passes: Passes,
    members: Sequence[Member],
    recipe: TrainingRecipe,
    *,
    on_step: Callable[[int, int], None] | None,
    stopping: Callable[[], bool],
) -> list[tuple[TrainResult, dict[str, np.ndarray]] | Diverged]:
    """Train one adapter for each member, each from its own `start`; texts of all members go through the base together.

    A member's result is that of training it alone but for rounding: nothing that it draws and no step of
    its optimiser depends on the others.

    Args:
      passes: through the frozen base.
      members: each with two tokens or more to train on.
      recipe: of all.
      on_step: called with (steps done, steps in all) of the longest member.
      stopping: asked before every batch.

    Returns:
      For each member its result and its adapter, or how it diverged.

    Raises:
      Stopped: `stopping` said so.
      MemoryError: a quarter of a batch does not fit into memory.
    """
    started = time.monotonic()
    adapters = passes.adapters([m.start for m in members])
    schedules = [Schedule(m.texts, recipe, m.seed, m.subset_seed) for m in members]
    runs = [_Progress(m, s, s.steps()) for m, s in zip(members, schedules, strict=True)]
    rows = adapters.rows()
    optimizer = optimizer_of(recipe, rows)
    for row, member in zip(rows, members, strict=True):
        number, slots = remembered(member.memory, recipe.factors)
        restore(row, optimizer, number, {slot: adapters.joined(named) for slot, named in slots.items()})
    method = method_of(recipe.method)
    pushes = [method.push(member.memory) for member in members]
    terms = [
        LocalTerm(method.pull, [row], [adapters.joined(push) if push else None])
        for row, push in zip(rows, pushes, strict=True)
    ]
    # What the optimiser does with a row is decided by whether the row has a gradient.
    grads = [row.grad for row in rows]
    frozen = adapters.frozen(recipe.factors)
    as_it_was = None if frozen is None else adapters.flat.detach()[:, frozen].clone()
    worker = _Steps(passes, adapters, [derive_seed(m.seed, "dropout") for m in members], recipe, stopping)
    num_steps = max(schedule.num_steps for schedule in schedules)
    for step in range(num_steps):
        batches = [next(run.steps) if run.runs(step) else [] for run in runs]
        if not any(batches):
            break
        targets = [
            sum(len(run.member.texts[int(i)]) - 1 for batch in own for i in batch)
            for run, own in zip(runs, batches, strict=True)
        ]
        losses = worker.step(step, runs, batches, targets)
        for k, run in enumerate(runs):
            rows[k].grad = None
            if not batches[k]:
                continue
            rate = optimizer.param_groups[k]["lr"] = run.schedule.learning_rate(step)
            rows[k].grad = grads[k]
            if frozen is not None:
                grads[k][frozen] = 0.0  # type: ignore[index]
            if method.in_loss:
                terms[k].add()
            norm = float(torch.nn.utils.clip_grad_norm_([rows[k]], recipe.max_grad_norm or math.inf))
            if not math.isfinite(losses[k] + norm):
                rows[k].grad = None
                finite = math.isfinite(losses[k])
                what = f"the gradient's norm is {norm} at" if finite else f"the training loss is {losses[k]} at"
                run.failure = diverged(what, step, run.schedule.num_steps, rate)
                continue
            if not method.in_loss:
                terms[k].add()
            run.nll += losses[k]
            run.window.append(losses[k] / targets[k])
            if (step + 1) % recipe.logging_steps == 0:
                run.history.append(_record(run, step, rate, norm))
                run.window.clear()
        optimizer.step()
        if frozen is not None:
            # Without a gradient the optimiser moves a weight by its decay only.
            adapters.flat.detach()[:, frozen] = as_it_was
        for k, run in enumerate(runs):
            if batches[k] and run.failure is None:
                _look(run, step + 1, recipe, lambda k=k: adapters.named(k))  # type: ignore[misc]
        if on_step is not None:
            on_step(step + 1, num_steps)
    memories: list[NamedTensors] = [{}] * len(rows)
    if recipe.optimizer_state == "keep":
        memories = [
            kept({"": row}, optimizer.state, lambda _, value: of_factors(adapters.split(value), recipe.factors))
            for row in rows
        ]
    return _results(runs, adapters, memories, time.monotonic() - started)


class _Steps:
    """Gradients of one optimiser step after another, in as few parts as memory allows."""

    def __init__(
        self,
        passes: Passes,
        adapters: Adapters,
        seeds: list[int],
        recipe: TrainingRecipe,
        stopping: Callable[[], bool],
    ) -> None:
        self._passes, self._adapters, self._seeds, self._recipe = passes, adapters, seeds, recipe
        self._stopping = stopping
        self._parts = 1

    def step(
        self, step: int, runs: list[_Progress], batches: list[list[np.ndarray]], targets: list[int]
    ) -> list[float]:
        """Leave each member's mean gradient in the adapters; returns its summed losses in nats."""
        while True:
            try:
                return self._gradients(step, runs, batches, targets)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._parts == _MAX_PARTS:
                    raise
                self._parts *= 2
                log.warning(
                    "out of memory: from step %d on, batches go through in %d parts (same effective batch)",
                    *(step + 1, self._parts),
                )

    def _gradients(
        self, step: int, runs: list[_Progress], batches: list[list[np.ndarray]], targets: list[int]
    ) -> list[float]:
        self._adapters.begin()
        sums = [0.0] * len(runs)
        every = self._recipe.gradient_accumulation_steps
        for number in range(max(map(len, batches))):
            if self._stopping():
                raise Stopped("training was told to stop")
            chosen = [(k, int(i)) for k, own in enumerate(batches) for i in (own[number] if number < len(own) else ())]
            size = -(-len(chosen) // self._parts)
            for part, start in enumerate(range(0, len(chosen), size)):
                pass_number = (step * every + number) * _MAX_PARTS + part
                for k, loss in enumerate(self._pass(runs, chosen[start : start + size], targets, pass_number)):
                    sums[k] += loss
        self._adapters.end()
        return sums

    def _pass(
        self, runs: list[_Progress], chosen: list[tuple[int, int]], targets: list[int], number: int
    ) -> list[float]:
        members = [run.member for run in runs]
        own = [[i for owner, i in chosen if owner == k] for k in range(len(runs))]
        texts = [[m.texts[i] for i in indices] for m, indices in zip(members, own, strict=True)]
        # In full or not at all: a trunk is either read or computed.
        trunks = [m.trunk.rows(indices) for m, indices in zip(members, own, strict=True) if m.trunk is not None]
        whole = trunks if len(trunks) == len(members) else None
        batch = Batch(texts, targets, self._seeds, number, whole)
        return self._passes.backward(self._adapters, batch, self._recipe.gradient_checkpointing)


def _record(run: _Progress, step: int, rate: float, norm: float) -> dict[str, Any]:
    return {
        "loss": sum(run.window) / len(run.window),
        "grad_norm": norm,
        "learning_rate": rate,
        "epoch": (step + 1) / run.schedule.steps_per_epoch,
        "step": step + 1,
    }


def _look(run: _Progress, step: int, recipe: TrainingRecipe, adapter: Callable[[], NamedTensors]) -> None:
    if run.member.evaluate is not None and step % recipe.eval_steps == 0:
        epoch = step / run.schedule.steps_per_epoch
        run.history.append(run.member.evaluate(adapter()) | {"epoch": epoch, "step": step})
    if run.member.save is not None and step % recipe.save_steps == 0:
        run.member.save(step, adapter())


def _results(
    runs: list[_Progress], adapters: Adapters, memories: Sequence[NamedTensors], seconds: float
) -> list[tuple[TrainResult, dict[str, np.ndarray]] | Diverged]:
    all_tokens = sum(run.schedule.num_tokens for run in runs)
    results: list[tuple[TrainResult, dict[str, np.ndarray]] | Diverged] = []
    for k, run in enumerate(runs):
        if run.failure is not None:
            results.append(run.failure)
            continue
        tokens = run.schedule.num_tokens
        result = TrainResult(
            run.nll / tokens,
            run.schedule.num_examples,
            tokens,
            run.schedule.num_steps,
            seconds * tokens / all_tokens,
            run.history,
            memories[k],
        )
        results.append((result, adapters.named(k)))
    return results
