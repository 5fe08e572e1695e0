"""The coordinator's server and data plane and a worker's, in one thread; versions are fetched as tasks tell of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from receiving import Bench
from serving import give, make_server, started

from fedmq.codec import raw
from fedmq.config import get_default_config
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.runtime.intake import Intake
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.tasks import make_tasks

CLIENTS = ("client_1", "client_2")
_SPEC = get_default_config().to_run_spec()


def adapter_of(server: FederatedServer, version: int) -> dict[str, np.ndarray]:
    content = server.blobs.read(server.journal.digest(version))
    return dict(raw.decode(content, raw.read_spec(content)))


def play(server: FederatedServer, round: int, size: float = 1e-2, factor: str = "") -> None:
    """All updates of a round, of this factor alone if one is named; what becomes of them is for the test."""
    base = adapter_of(server, round - 1)
    server.open_round(round, [CLIENTS])
    for k, client in enumerate(CLIENTS):
        draw = np.random.default_rng(10 * round + k)
        local = {
            name: (v + (factor in name) * draw.normal(0, size, v.shape)).astype(np.float32) for name, v in base.items()
        }
        give(server, f"train-{round}-{client}-0", local)


def task(server: FederatedServer, version: int, kind: str = "evaluate-{}-test-0") -> m.Task:
    return make_tasks([kind.format(version)], _SPEC, server, "secret").tasks[0]


class Ends:
    """A run whose server has these options, and a worker.

    Args:
      folder: of both.
      codec: of downloads, at the worker.
    """

    def __init__(self, folder: Path, codec: str = "fp32", **options: Any) -> None:
        self.server = started(folder / "run", **options)
        self.bench, self._options = Bench(folder / "worker", codec), options
        self.again()

    def again(self) -> None:
        """As another process of the coordinator."""
        self.server = make_server(self.server.run_dir, **self._options)
        self.intake = Intake(self.bench.listener, self.server)

    def round(self, round: int) -> None:
        play(self.server, round)
        self.server.aggregate(round, CLIENTS)
        self.server.tidy([])

    def give(self, given: m.Task) -> None:
        """The worker is given a task."""
        assert given.adapter is not None
        self.bench.transfers.fetch(given.adapter, given.delta, given.merged)

    def served(self) -> tuple[int, list[str]]:
        """Until the worker has what it was given: bytes that came, and digests that it asked for."""
        asked: dict[str, None] = {}
        while (fetched := self.bench.transfers.fetched()) is None:
            for incoming in self.bench.listener.receive(0.0).messages:
                asked[self.intake._in.decode(bytes(incoming.frames[0])).digest] = None
                with contextlib.suppress(RemoteProtocolError):
                    self.intake.take(incoming)
            for answer in self.bench.worker.receive(0.0).messages:
                self.bench.transfers.take(answer.frames)
        digest, nbytes = fetched
        assert self.bench.transfers.path(digest).read_bytes() == self.server.blobs.path(digest).read_bytes()
        return nbytes, list(asked)

    def fetch(self, version: int) -> tuple[int, list[str]]:
        """The same of a task of this version."""
        self.give(task(self.server, version))
        return self.served()
