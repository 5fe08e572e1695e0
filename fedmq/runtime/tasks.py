"""From the names of tasks to the message that carries everything a worker needs for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork
from fedmq.recipe import RunSpec
from fedmq.rng import derive_seed
from fedmq.runtime.downloads import newest_link
from fedmq.runtime.server import FederatedServer


def make_tasks(
    tasks: Iterable[str], spec: RunSpec, server: FederatedServer, secret: str, left_s: float | None = None
) -> m.Tasks:
    """Tasks of one group as a worker gets them: work, seed, and the adapter of the version that they start from.

    The seed depends on the run's seed, the kind, the round and the client alone, so that neither the
    worker nor the attempt changes the result; of generations on the run's seed alone, so that texts of two versions
    differ by the model and not by chance. `left_s`, to the deadline of a round, is of no concern to other work.
    """
    made = tuple(_make_task(task, spec, server, secret) for task in tasks)
    return m.Tasks(made, left_s if made[0].work.kind == "train" else None)


def _make_task(task: str, spec: RunSpec, server: FederatedServer, secret: str) -> m.Task:
    job, _ = parse_task(task)
    training = spec.training
    work: InitWork | TrainWork | EvaluateWork | GenerateWork
    match job.kind:
        case "init":
            work = InitWork("init")
        case "train":
            recipe = replace(training, factors=server.aggregator.trained(job.round))
            work = TrainWork("train", recipe, server.uploads.part(job.unit, job.round))
        case "evaluate":
            work = EvaluateWork("evaluate", job.unit, training.batch_size)
        case _:
            work = GenerateWork("generate", spec.generation)
    client = job.unit if job.unit.startswith("client_") else None
    seed = derive_seed(spec.seed, job.kind, 0 if job.kind == "generate" else job.round, client or "")
    version = {"init": None, "train": job.round - 1}.get(job.kind, job.round)
    adapter = delta = merged = None
    if version is not None:
        adapter = server.training_files.of(version) if job.kind == "train" else server.adapter(version)
        # A file with what clients are told beside the adapter is another than the one that a delta leads to.
        if adapter.digest == server.journal.digest(version):
            delta = server.deltas.to(version)
        merged = newest_link(server.journal, server.blobs, version)
    follows = None
    if client and (job.kind == "train" or training.shared != "both"):
        # A version is scored with what its clients have of their own since it was made.
        folded = server.journal.last_folded(client, job.round if job.kind == "train" else job.round + 1)
        follows = None if folded is None else m.Folded(*folded)
    return m.Task(task, task_nonce(secret, task), job.round, client, seed, adapter, work, follows, delta, merged)


def check_task(message: m.Offer | m.Evaluated | m.Generated | m.TaskFailed, secret: str) -> None:
    """Refuse what names a task that this run never gave.

    Raises:
      RemoteProtocolError: NONCE.
    """
    if message.nonce != task_nonce(secret, message.task):
        raise RemoteProtocolError("NONCE", f"{message.task} is not a task of this run")


def check_kind(message: m.Offer | m.Evaluated | m.Generated) -> None:
    """Refuse a result of another kind than its task asks for.

    Raises:
      RemoteProtocolError: KIND.
    """
    kinds = {m.Offer: ("init", "train"), m.Evaluated: ("evaluate",), m.Generated: ("generate",)}
    if parse_task(message.task)[0].kind not in kinds[type(message)]:
        raise RemoteProtocolError("KIND", f"{message.task} asks for another kind of result")


def task_nonce(secret: str, task: str) -> str:
    """What proves that a task came from this run: 16 bytes in hex, the same again after a restart."""
    return hashlib.sha256(f"{secret}:{task}".encode()).hexdigest()[:32]
