"""Who watches a run: a terminal, a log, a test."""

from __future__ import annotations

import math
from typing import Any, Protocol

from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.jobs import WorkerState
from fedmq.protocol.phases import Phase
from fedmq.recipe import TrainingRecipe


class View(Protocol):
    """Told of what happens; must not block."""

    def note(self, level: str, text: str) -> None:
        """Something happened that a person should read."""
        ...

    def progress(self, live: dict[str, Any]) -> None:
        """Called a few times a second, with the `live_status`."""
        ...

    def committed(self, row: dict[str, Any]) -> None:
        """A round was committed: its row as in training_metrics.json."""
        ...

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        """The evaluation of a version is over; None when nobody could evaluate it. Comes after `committed`."""
        ...


def live_status(state: CoordinatorState, training: TrainingRecipe, now: float, wall_s: float) -> dict[str, Any]:
    """Where a running run stands, for whoever watches it, or reads run.db meanwhile.

    Args:
      state: of the run.
      training: its recipe.
      now: of the state's clock.
      wall_s: the time of day.

    Returns:
      at: `wall_s`; phase; round; `round_s`, for how long this process has had it open; num_rounds; awaited: lines;
      workers: for each `worker`, its number of `clients`, whether it is `suspect`, its `jobs` as "kind/round/unit", its
      `phase`, `step` of `total_steps`, and `tokens_per_s` of its training so far, by the sizes that its clients
      announced; None before the first step.
    """
    workers = [
        {
            "worker": worker.name,
            "clients": len(worker.clients),
            "suspect": worker.suspect,
            "jobs": ["/".join(map(str, job)) for job in worker.hand],
            "phase": worker.phase,
            "step": worker.step,
            "total_steps": worker.total_steps,
            "tokens_per_s": _tokens_per_s(worker, training, now),
        }
        for worker in state.roster.workers.values()
    ]
    return {
        "at": wall_s,
        "phase": state.phase.value,
        "round": min(state.round, state.policy.num_rounds),
        "round_s": now - state.clock.opened_at if state.phase is Phase.COLLECTING else 0.0,
        "num_rounds": state.policy.num_rounds,
        "workers": workers,
        "awaited": state.awaited(now),
    }


def _tokens_per_s(worker: WorkerState, training: TrainingRecipe, now: float) -> float | None:
    trained = [worker.clients[job.unit] for job in worker.hand if job.kind == "train" and job.unit in worker.clients]
    if not trained or not worker.step or worker.working_since is None or now <= worker.working_since:
        return None
    most = training.max_samples_per_client or math.inf
    tokens = sum(size.num_tokens * min(1.0, most / max(1, size.num_examples)) for size in trained)
    done = worker.step / max(1, worker.total_steps)
    return tokens * training.num_epochs * done / (now - worker.working_since)
