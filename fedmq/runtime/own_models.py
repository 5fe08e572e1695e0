"""Clients' own models at a worker, where adapters are shared in part only: put on to be scored, and kept as folders."""

from __future__ import annotations

import logging
from pathlib import Path

from fedmq.algorithms.personal import personal
from fedmq.errors import DataError
from fedmq.learning.models import LanguageModel
from fedmq.protocol.messages import Task
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.packing import memory_of
from fedmq.storage.personal import forget_before, versions

log = logging.getLogger("fedmq.trainer")


class OwnModels:
    """A folder with a client's newest own model in CLIENT/round_N, which peft loads.

    Args:
      folder: made when the first is kept.
      states: what the worker's clients remember.
    """

    def __init__(self, folder: Path, states: ClientStates) -> None:
        self._folder, self._states = folder, states

    def put_on(self, task: Task, model: LanguageModel) -> None:
        """Give the model, which has the version's adapter, what is the client's own, and keep that as a folder.

        Before its first update counted, a client has nothing of its own: then no folder is written.

        Raises:
          DataError: what the client has of its own is not here.
        """
        client = task.client or ""
        memory = memory_of(task, self._states)
        if task.follows is None:
            return
        if not memory:
            raise DataError(f"what {client} kept for itself of round {task.follows.round} is not here")
        model.set_adapter(personal(model.get_adapter(), memory))
        own = self._folder / client
        if max(versions(own), default=0) <= task.round:
            model.save_adapter(own / f"round_{task.round}")
            forget_before(own, task.round)
            log.info("%s's own model is in %s", client, own / f"round_{task.round}")
