"""A cluster in one thread: a coordinator and workers, virtual time, and one seed that decides all that happens."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import logging
import os
import random
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from budget import REMEMBERED, Budget
from coordinator_host import CoordinatorHost
from disk import Killed, intercepted
from fake_trainer import FakeTrainer
from hosts import Host
from network import Network
from virtual_time import VirtualTime
from witness import Witness
from worker_host import WorkerHost

from fedmq.algorithms import aggregate, sampling, server_opt, staleness, weighting
from fedmq.codec.download import download_codec
from fedmq.codec.update import update_codec
from fedmq.config import get_default_config
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.limits import Recent
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.recipe import CodecSpec
from fedmq.runtime import coordinator, guard, links, worker
from fedmq.runtime.intake import Intake
from fedmq.runtime.screening import UpdateLimits
from fedmq.runtime.selection import ClientSelection
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.transfers import Transfers
from fedmq.runtime.uploads import Uploads
from fedmq.storage import journal, run_folder

SAVE_EVERY = 2
#: Faults end after so many simulated seconds; then the run must end, too, after so many more.
STORM_S, PATIENCE_S = 90.0, 900.0


@dataclass(frozen=True)
class Shape:
    """What a run is, apart from its faults. Runs of the same shape end with the same adapter.

    Attributes:
      sites: for each, how many workers host its clients.
      clients: of each site.
      together: clients trained in one step.
      optimizer: of the server.
      codec: of updates. One that has clients remember needs one worker a site: what they remember is on its disk.
      download: codec of the global adapter.
      selection: of the clients of a round.
    """

    sites: tuple[int, ...]
    clients: int
    cohort: int
    together: int
    rounds: int
    optimizer: str
    codec: str = "fp32"
    download: str = "fp32"
    selection: str = "uniform"

    @functools.cached_property
    def spec(self) -> Any:
        """What workers are told of the run."""
        up, down = (CodecSpec(name, None, None, None) for name in (self.codec, self.download))
        return replace(get_default_config().to_run_spec(), upload=up, download=down)

    def hosted(self) -> dict[str, list[str]]:
        """Worker -> its clients."""
        at = [f"w{site}{chr(97 + k)}" for site, count in enumerate(self.sites) for k in range(count)]
        return {name: [f"client_{int(name[1]) * self.clients + k}" for k in range(self.clients)] for name in at}

    def server(self, folder: Path, journal: journal.Journal) -> FederatedServer:
        """As `build.server` makes it."""
        sampler = sampling.BY_NAME[self.selection]()
        optimizer = server_opt.none() if self.optimizer == "none" else server_opt.BY_NAME[self.optimizer]()
        return FederatedServer(
            folder,
            journal,
            aggregator=aggregate.fedavg(),
            server_optimizer=optimizer,
            uploads=Uploads(update_codec(self.spec.upload), lambda round: "both", {}),
            download=download_codec(self.spec.download),
            discount=staleness.constant(),
            limits=UpdateLimits(max_norm=1000.0, max_tokens_per_example=128),
            selection=ClientSelection(journal, sampler, weighting.by_examples, 42, self.selection),
            weighting=weighting.by_examples,
            num_rounds=self.rounds,
            save_every=SAVE_EVERY,
            save_client_adapters=True,
        )

    def state(self, server: FederatedServer, now: float) -> CoordinatorState:
        """As `build.coordinator` makes it; nobody is ever given up, or the result would depend on the faults."""
        policy = RoundPolicy(self.rounds, self.cohort, self.cohort, max_attempts=99, clients_per_batch=self.together)
        timers = Timers(start_s=1e6, heartbeat_s=1.0)
        expected = len(self.sites) * self.clients
        return CoordinatorState(policy, timers, expected, progress=server.progress(), started_at=now)


class Cluster:
    """One run.

    Args:
      seed: of all chance.
      shape: what is run.
      folder: for the hosts' disks.
      expected: digests by version; None where this run is the one that says what they are.
      trace: takes each line of what happens, if anybody wants to read it.
    """

    def __init__(
        self,
        seed: int,
        shape: Shape,
        folder: Path,
        expected: dict[int, str] | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.dice, self.shape, self.expected = random.Random(seed), shape, expected
        self._folder, self._trace = folder, trace
        self.clock, self.witness, self.happened = VirtualTime(), Witness(Budget(shape)), Counter[str]()
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._history = hashlib.sha256()
        self.acting: Host | None = None
        self.over = self.calm = False
        self.failing = 0.0
        self.network = Network(self)
        self.workers: dict[str, WorkerHost] = {}
        self.coordinator = CoordinatorHost(self, folder / "coordinator")
        for name, clients in shape.hosted().items():
            self.workers[name] = WorkerHost(self, name, clients, name.startswith("w0"), folder / name)

    # --- time ----------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self.clock.now

    def number(self) -> int:
        """The next one."""
        self._count += 1
        return self._count

    def after(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Do this later."""
        heapq.heappush(self._agenda, (self.now + max(0.0, seconds), self.number(), what, args))

    def play(self, until_s: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let things happen."""
        while self._agenda and self._agenda[0][0] <= until_s and not enough():
            self.clock.now, _, what, args = heapq.heappop(self._agenda)
            outer = self.acting
            self.act(None)
            what(*args)
            self.act(outer)

    def wait(self, timeout_s: float, enough: Callable[[], bool]) -> None:
        """The process whose code runs now waits; it may be killed meanwhile."""
        host, until = self.acting, self.now + timeout_s
        assert host is not None
        self.play(until, lambda: enough() or host.doomed)
        if host.doomed:
            raise Killed
        if not enough():
            self.clock.now = until

    def act(self, host: Host | None) -> None:
        """The code of this host runs now."""
        self.acting = host
        self.clock.boot_s, self.clock.wall_s = (host.boot_s, host.wall_s) if host is not None else (0.0, 0.0)

    # --- what happens --------------------------------------------------------------------------

    def chance(self, probability: float, what: str) -> bool:
        """Whether something that is counted happens."""
        happens = probability > 0 and self.dice.random() < probability
        if happens:
            self.happened[what] += 1
        return happens

    def happens(self, what: str) -> None:
        """Count it, and write it down."""
        self.happened[what] += 1
        self.log(f"* {what}")

    def log(self, text: str) -> None:
        """A line of history."""
        # The folder has another name each time.
        line = f"{self.now:9.3f} {text}".replace(str(self._folder), "")
        self._history.update(line.encode())
        if self._trace is not None:
            self._trace(line)

    def hosts(self) -> list[Host]:
        """All of them."""
        return [self.coordinator, *self.workers.values()]

    def blackout(self) -> None:
        """Every machine loses its power."""
        for host in self.hosts():
            host.kill(power=True)

    def ended(self, server: FederatedServer) -> None:
        """The coordinator has done all that it had to."""
        self.over = True
        for host in self.hosts():
            self.happened.update({f"power cut: {what} lost": n for what, n in host.disk.lost.items()})
        self.happened.update(f"full: {what}" for what in sorted(self.witness.budget.full))
        if self.expected is not None:
            self.witness.ended(server.run_dir, server.journal, self.expected, SAVE_EVERY, self.shape.codec != "fp32")

    def new_trainer(self, *_: Any) -> FakeTrainer:
        """The agent whose code runs now starts its trainer."""
        assert isinstance(self.acting, WorkerHost)
        return FakeTrainer(self.acting)

    @property
    def history(self) -> str:
        """A digest of all that happened: the same seed has the same."""
        return self._history.hexdigest()[:16]

    def close(self) -> None:
        """Let go of everything."""
        self.act(None)
        for host in self.hosts():
            host.release()
            host.disk.abandon()
            host.disk.close()


@contextlib.contextmanager
def simulated(seed: int, shape: Shape, **options: Any) -> Iterator[Cluster]:
    """A cluster whose processes see its time, its disks and its trainers; in memory, if the host has such a folder."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    names = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fedmq-", dir=where) as folder, contextlib.ExitStack() as stack:
        cluster = Cluster(seed, shape, Path(folder), **options)
        patches = [
            *(mock.patch.object(module, "time", cluster.clock) for module in (coordinator, guard, links, worker)),
            *(mock.patch.object(module, "time", cluster.clock) for module in (journal, run_folder)),
            mock.patch.object(Transfers.__init__, "__defaults__", (cluster.clock.monotonic,)),
            mock.patch.object(worker, "TrainerProcess", cluster.new_trainer),
            mock.patch.object(Recent.__init__, "__defaults__", (REMEMBERED,)),
            mock.patch.object(Intake, "chunk_nbytes", 100),
            mock.patch.object(Intake, "credits", 2),
            mock.patch.object(os, "urandom", names.randbytes),
            mock.patch.object(secrets, "token_hex", lambda n: names.randbytes(n).hex()),
            intercepted(lambda: None if cluster.acting is None else cluster.acting.disk),
        ]
        for patch in patches:
            stack.enter_context(patch)
        stack.callback(cluster.close)
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        yield cluster
