"""A federation with a bad network between its coordinator and its one worker, and what it would have ended with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chaos_proxy import ChaosProxy
from conftest import Coordinating, Federation
from running import FEDMQ, Running, free_pair

from fedmq.transport.allowed import allow
from fedmq.transport.keys import new_pair

CLIENTS = ["client_0", "client_1"]
IMPATIENT = (sys.executable, Path(__file__).with_name("impatient_fedmq.py"))


@cache
def undisturbed(size: int, num_rounds: int) -> str:
    """The digest of so many rounds of adapters with 2 * size numbers, on a good network."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        federation = Federation(Path(folder))
        stack.callback(federation.end)
        coordinator = federation.coordinator(federation.config(**settings(num_rounds)))
        federation.noop_worker(coordinator.address, "w0", shape=[size])
        return coordinator.ended_well()


def settings(num_rounds: int) -> dict[str, Any]:
    return {
        "federated": {"num_clients": 2, "clients_per_round": 2, "num_rounds": num_rounds},
        "training": {"clients_per_batch": 1},
        "generation": {"prompts": []},
    }


class BadNetwork:
    """One run whose worker talks to its coordinator through a chaos proxy.

    Args:
      size: of the adapter: 2 * size float32.
      patient: whether the coordinator has its real timers.
      keys: whether the link has.
    """

    def __init__(
        self, federation: Federation, size: int, num_rounds: int = 1, patient: bool = False, keys: bool = False
    ) -> None:
        self.federation, self.size, self.num_rounds = federation, size, num_rounds
        self.run_dir, self.work_dir = federation.folder / "run", federation.folder / "noop" / "w0"
        self._command = FEDMQ if patient else IMPATIENT
        self._keys: tuple[Path, ...] = ()
        self._options: tuple[str, ...] = ()
        if keys:
            here, there = federation.folder / "keys", federation.folder / "host"
            new_pair("coordinator", here)
            allow(new_pair("w0", there).public, here)
            self._keys, self._options = (there / "w0.key", here / "coordinator.pub"), ("--keys", str(here))
        self._config = federation.config(**settings(num_rounds))
        self.gate = federation.gate("training")
        # Told, so that the data port is the next one, and both are the same after a restart.
        self.coordinator = self._start(port=free_pair())
        self.proxy = ChaosProxy(self.coordinator.process.pid, self.coordinator.port)

    @property
    def nbytes(self) -> int:
        """Of an adapter, once one is there."""
        return max(path.stat().st_size for path in (self.run_dir / "blobs").iterdir())

    def _start(self, *options: str, port: int) -> Coordinating:
        arguments = (*self._options, *options)
        return self.federation.coordinator(self._config, *arguments, port=port, command=self._command)

    def restart_coordinator(self) -> None:
        """The same command again with --resume, on the same ports; the one before is dead."""
        self.coordinator = self._start("--resume", port=self.coordinator.port)

    def start_worker(self) -> Running:
        """Its trainings wait at the gate."""
        gates = dict.fromkeys(CLIENTS, str(self.gate.path))
        options: dict[str, Any] = {"shape": [self.size], "gates": gates}
        return self.federation.noop_worker(self.proxy.address, "w0", keys=self._keys, **options)

    def train(self, num_trainings: int | None = None) -> None:
        """So many trainings go on, as they come; without a number, all of all rounds."""
        for _ in range(num_trainings or self.num_rounds * len(CLIENTS)):
            self.gate.open()

    def ends_as_undisturbed(self) -> None:
        assert self.coordinator.ended_well() == undisturbed(self.size, self.num_rounds)

    def said(self, word: str) -> list[str]:
        """What the coordinator said with this word in it."""
        return [line for lines in self.coordinator.process.lines.values() for line in lines if word in line]


Start = Callable[..., BadNetwork]
