"""Results without an adapter, evaluations and texts, into the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fedmq.errors import RemoteProtocolError
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.messages import Evaluated, Generated
from fedmq.runtime.task_times import UNKNOWN, Times
from fedmq.storage.blobs import BlobStore
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


def unanswered(journal: Journal, blobs: BlobStore, versions: Iterable[int]) -> tuple[list[int], list[int]]:
    """Which of these committed versions are not scored on all that others are, and which have no texts.

    A version whose adapter is gone can have neither any more.
    """
    counts = Counter(row["version"] for row in journal.evaluations())
    most, written = max((1, *counts.values())), {row["version"] for row in journal.generations()}
    held = [version for version in versions if blobs.has(journal.digest(version))]
    return [v for v in held if counts[v] < most], [v for v in held if v not in written]
