"""Results without an adapter, evaluations and texts, into the journal."""

from __future__ import annotations

from collections.abc import Sequence

from fedmq.errors import RemoteProtocolError
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.messages import Evaluated, Generated
from fedmq.runtime.task_times import UNKNOWN, Times
from fedmq.storage.journal import Journal


def record_evaluation(journal: Journal, result: Evaluated, worker: str, times: Times = UNKNOWN) -> None:
    """A version was scored on one unit. RemoteProtocolError EMPTY: on no target."""
    if result.num_tokens < 1:
        raise RemoteProtocolError("EMPTY", "an evaluation without targets")
    job, _ = parse_task(result.task)
    journal.add_evaluation(
        version=job.round,
        unit=job.unit,
        worker=worker,
        loss_sum=result.loss_sum,
        num_tokens=result.num_tokens,
        num_examples=result.num_examples,
        seconds=result.seconds,
        assigned_at=times.assigned_at,
    )


def record_texts(journal: Journal, result: Generated, prompts: Sequence[str]) -> None:
    """A version continued the prompts. RemoteProtocolError INVALID: not one text for each."""
    if len(result.texts) != len(prompts):
        raise RemoteProtocolError("INVALID", f"{len(result.texts)} texts for {len(prompts)} prompts")
    journal.add_generations(parse_task(result.task)[0].round, prompts, result.texts)
