"""Questions about workers and jobs that change neither: which groups wait, who may have one, who is awaited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from fedmq.errors import LocalProtocolError
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import Held, Job, JobState, Status, WorkerState, in_words

#: Evaluation first: people want to see the round that is over before the next one is. Texts fill gaps.
_ORDER = {"init": 0, "evaluate": 1, "train": 2, "generate": 3}
#: Seconds without a step that are worth a word.
_STILL_S = 10.0

Group = tuple[Job, ...]


def waiting(jobs: Mapping[Job, JobState], sizes: Mapping[str, Size], all_count: bool) -> list[Group]:
    """Groups that somebody should begin with, in this order.

    Of a group that a worker is at, the rest waits for what comes of that.

    Texts of a version wait for the trainings of one round, and go before those of the next: where no worker is ever
    without a training they would all be made at the end, and so many adapters kept until then.

    Args:
      jobs: of all kinds.
      sizes: of the clients.
      all_count: long trainings first, so that none trails behind. Where a round may close without some, those would
        always be the same, small or late in the alphabet: then the order is another one in each round.
    """
    begun = {state.group for state in jobs.values() if state.status is Status.ASSIGNED}
    groups = {state.group for state in jobs.values() if state.status is Status.PENDING} - begun

    newest = max((job.round for job in jobs if job.kind == "generate"), default=0)

    def place(group: Group) -> tuple[int, int | bytes, Group]:
        overdue = group[0].kind == "generate" and group[0].round < newest
        order = _ORDER["evaluate" if overdue else group[0].kind]
        return order, -_num_examples(group, sizes) if all_count else _shuffled(group), group

    return sorted(groups, key=place)


def _shuffled(group: Group) -> bytes:
    """As good as chance, and the same after a restart."""
    return hashlib.sha256(repr(group).encode()).digest()


def may(worker: WorkerState, group: Group, jobs: Mapping[Job, JobState], workers: Iterable[WorkerState]) -> bool:
    """Whether the worker can do the group, and has not failed at it, unless there is nobody else."""
    if not worker.can(group):
        return False
    avoid = {name for job in group if jobs[job].status is Status.PENDING for name in jobs[job].avoid}
    others = (w for w in workers if w.name not in avoid and not w.suspect and not w.greeting)
    return worker.name not in avoid or not any(w.can(group) for w in others)


def awaited(jobs: Mapping[Job, JobState], workers: Mapping[str, WorkerState], now: float) -> list[str]:
    """Who is awaited, for what, since when: lines for people."""
    lines = []
    for group in sorted({s.group for s in jobs.values()}, key=lambda group: (_ORDER[group[0].kind], group)):
        states = [jobs[job] for job in group]
        for name in sorted({s.worker for s in states if s.worker is not None}):
            worker, own = workers[name], [s for s in states if s.worker == name]
            still = worker.still_for(now)
            silent = f", no progress for {still:.0f} s" if still >= _STILL_S else ""
            silent = f", silent for {now - worker.last_heard:.0f} s" if worker.suspect else silent
            steps = f"step {worker.step}/{worker.total_steps}, " if worker.total_steps else ""
            lines.append(f"{name}: {in_words(s.job for s in own)}, {steps}for {now - own[0].since:.0f} s{silent}")
        since = [s.hostless_since for s in states if s.hostless_since is not None and s.unfinished]
        if since:
            whom = in_words(group).partition(" ")[2]
            lines.append(f"any worker that hosts {whom}, for {now - min(since):.0f} s")
    return lines


def validate(jobs: Mapping[Job, JobState], workers: Mapping[str, WorkerState]) -> None:
    """Check that jobs and workers agree.

    Raises:
      LocalProtocolError: naming the job or the worker.
    """
    for job, state in jobs.items():
        if state.status is Status.ASSIGNED:
            worker = workers.get(state.worker or "")
            if worker is None or worker.hand.get(job) != Held(state.attempt):
                raise LocalProtocolError(f"{job} is assigned to {state.worker}, which does not have it")
        elif state.worker is not None:
            raise LocalProtocolError(f"{job} is {state.status.value} and has a worker")
        if job not in state.group or any(jobs[mate].group != state.group for mate in state.group):
            raise LocalProtocolError(f"{job} and its group {state.group} do not agree")
    for worker in workers.values():
        for job, held in worker.hand.items():
            waits = job in jobs and jobs[job].status is Status.PENDING
            if waits and not held.stopping:
                raise LocalProtocolError(f"{worker.name} has {job}, which waits for a worker")


def _num_examples(group: Group, sizes: Mapping[str, Size]) -> int:
    return sum(sizes[job.unit].num_examples for job in group if job.unit in sizes)
