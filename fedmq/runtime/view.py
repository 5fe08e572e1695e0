"""Who watches a run: a terminal, a log, a test."""

from __future__ import annotations

from typing import Any, Protocol

from fedmq.protocol.coordinator_state import CoordinatorState


class View(Protocol):
    """Told of what happens; must not block."""

    def note(self, level: str, text: str) -> None:
        """Something happened that a person should read."""
        ...

    def progress(self, state: CoordinatorState, now: float) -> None:
        """Called a few times a second."""
        ...

    def committed(self, row: dict[str, Any]) -> None:
        """A round was committed: its row as in training_metrics.json."""
        ...

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        """The evaluation of a version is over; None when nobody could evaluate it. Comes after `committed`."""
        ...


def live_status(state: CoordinatorState, now: float, wall_s: float) -> dict[str, Any]:
    """Where a running run stands, for whoever reads run.db meanwhile; `wall_s` is the time of day."""
    workers = [
        {
            "worker": worker.name,
            "clients": len(worker.clients),
            "suspect": worker.suspect,
            "jobs": ["/".join(map(str, job)) for job in worker.hand],
        }
        for worker in state.roster.workers.values()
    ]
    return {
        "at": wall_s,
        "phase": state.phase.value,
        "round": min(state.round, state.policy.num_rounds),
        "workers": workers,
        "awaited": state.awaited(now),
    }
