"""A trained adapter becomes an update: encoded, with what its client remembers from then on, and both durable."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedmq import atomic
from fedmq.codec.part import of_part, start
from fedmq.codec.update import UpdateCodec
from fedmq.protocol.messages import Folded, Task
from fedmq.protocol.work import TrainWork
from fedmq.recipe import Part
from fedmq.runtime.client_states import ClientStates
from fedmq.tensors import NamedTensors

#: Before the names of what the upload codec remembers: a client may remember other things, too.
_UPLOAD = "upload:"
#: Likewise of what its training remembers (`fedmq.learning.outcome.TrainResult.memory`).
_TRAINING = "training:"


class Packed(NamedTuple):
    """An update's file, and whether what its client remembered was lost."""

    digest: str
    nbytes: int
    state_lost: bool


def memory_of(task: Task, states: ClientStates) -> dict[str, np.ndarray]:
    """What the task's client remembers of its trainings; {} before the first, and where it is lost."""
    known = states.recall(task.client or "", task.follows) or {}
    return {name.removeprefix(_TRAINING): value for name, value in known.items() if name.startswith(_TRAINING)}


def start_of(task: Task, adapter: NamedTensors) -> NamedTensors:
    """What the task's client trains from, where this is the task's adapter."""
    return start(_part(task), adapter)


def pack(
    task: Task,
    local: NamedTensors,
    base: NamedTensors,
    memory: NamedTensors,
    codec: UpdateCodec,
    states: ClientStates,
    path: Path,
) -> Packed:
    """Write the update of a task's client to `path`.

    Args:
      task: the training; its client and what it follows.
      local, base: the adapter as trained, and as it was given. Of it, what `TrainWork.part` says is sent.
      memory: of the training.
      codec: of the run.
      states: of the worker's clients.
      path: of the update.
    """
    codec = of_part(codec, _part(task))
    before, lost = codec.init(base), False
    client = task.client or ""
    if before or memory:
        known = states.recall(client, task.follows)
        lost = known is None
        before = {name: (known or {}).get(f"{_UPLOAD}{name}", value) for name, value in before.items()}
    content, after = codec.encode(local, base, before)
    digest = hashlib.sha256(content).hexdigest()
    state = {f"{_UPLOAD}{name}": value for name, value in after.items()}
    state |= {f"{_TRAINING}{name}": value for name, value in memory.items()}
    if state:
        # First: whoever has the update can go on from it.
        states.keep(client, Folded(task.round, digest), state)
    atomic.write_bytes(path, content)
    return Packed(digest, len(content), lost)


def _part(task: Task) -> Part:
    assert isinstance(task.work, TrainWork)
    return task.work.part
