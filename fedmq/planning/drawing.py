"""The rounds of a run before it: who is drawn, in which groups, for how many steps and targets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fedmq.protocol.grouping import Size, automatic, chunks
from fedmq.protocol.policy import RoundPolicy
from fedmq.recipe import TrainingRecipe

#: Rounds that are drawn; of longer runs these stand for all.
MAX_DRAWN = 50


class Training(NamedTuple):
    """Of a client in a round: optimiser steps, and targets over all epochs."""

    steps: int
    num_tokens: int


def training_of(size: Size, recipe: TrainingRecipe) -> Training:
    """What a client's training comes to.

    Args:
      size: of the texts that it trains on; their first tokens are no targets.
      recipe: of the run.
    """
    batches = -(-size.num_examples // recipe.batch_size)
    steps = -(-batches // recipe.gradient_accumulation_steps) * recipe.num_epochs
    return Training(steps, (size.num_tokens - size.num_examples) * recipe.num_epochs)


def drawn_groups(
    select: Callable[[int, Sequence[str], int], tuple[str, ...]],
    policy: RoundPolicy,
    sizes: dict[str, Size],
) -> list[list[tuple[str, ...]]]:
    """The groups of the first rounds, as they will be drawn where the draw looks at nothing that is still to come.

    Args:
      select: (round, clients, count) -> those drawn.
      policy: of the run; of an asynchronous one, a round is what makes a version.
      sizes: of all clients.
    """
    names = sorted(sizes)
    count = policy.cohort if policy.asynchronous else min(len(names), math.ceil(policy.cohort * policy.over_selection))
    rounds = []
    for round in range(1, min(policy.num_rounds, MAX_DRAWN) + 1):
        drawn = select(round, names, count)
        chosen = [sizes[client] for client in drawn]
        size = policy.clients_per_batch or automatic(chosen, policy.batch_size, len(drawn))
        rounds.append(chunks(drawn, dict.fromkeys(drawn, ("here",)), size))
    return rounds


def makespan(tasks: Iterable[float], workers: int) -> float:
    """Seconds until all tasks are done, each worker taking the longest that is left.

    Example:
      >>> makespan([3.0, 1.0, 2.0, 2.0], 2)
      4.0
    """
    free = [0.0] * workers
    for seconds in sorted(tasks, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def mean(values: Iterable[float]) -> float:
    """Of none, 0.

    Example:
      >>> mean([1, 2]), mean([])
      (1.5, 0.0)
    """
    found = list(values)
    return sum(found) / len(found) if found else 0.0
