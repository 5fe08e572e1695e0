"""The coordinator's host: runs `Coordinator` on its folder, as `fedmq run --resume` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hosts import Host
from network import Listener
from violation import Violation

from fedmq.runtime.coordinator import Coordinator
from fedmq.storage.run_folder import OpenRun, open_run

if TYPE_CHECKING:
    from cluster import Cluster


class CoordinatorHost(Host):
    """Opens the run, serves it, and leaves it when it is done."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._open: OpenRun | None = None
        self._coordinator: Coordinator | None = None
        self._listener: Listener | None = None
        self._seen = -1
        self.asked_to_stop: str | None = None
        super().__init__(cluster, "coordinator", folder)

    def start(self) -> None:
        folder = self.disk.root / "run"
        self._open = open_run(folder, "{}", "{}", resume=True, overwrite=False)
        journal = self._open.journal
        if self._open.finished:
            server = self.cluster.shape.server(folder, journal)
        else:
            self.cluster.witness.started(int(journal.require("epoch")))
            server = self.cluster.shape.server(folder, journal)
            self.cluster.witness.looks(journal, server.blobs)
            self.cluster.witness.watches(journal, self.cluster.network.door.lets_in)
            state = self.cluster.shape.state(server, self.cluster.clock.monotonic())
            _check(state)
            self._listener = Listener(self.cluster.network)
            self._coordinator = Coordinator(state, server, self._listener, self.cluster.shape.spec, self)
            return
        self._done(server)

    def turn(self) -> bool:
        coordinator, listener = self._coordinator, self._listener
        assert coordinator is not None and listener is not None and self._open is not None
        coordinator.turn(lambda: self.asked_to_stop)
        if coordinator.finish is None:  # what is over takes nothing more, and forgets nothing either
            self.cluster.witness.budget.of_coordinator(coordinator)
        changes = self._open.journal._db.total_changes
        if changes != self._seen:
            self._seen = changes
            self.cluster.witness.looks(self._open.journal)
        if coordinator.finish is None:
            return listener.pending
        self.cluster.log(f"coordinator: {coordinator.finish}")
        if coordinator.finish.outcome == "failed":
            raise Violation(f"I11: the run failed: {coordinator.finish.reason}")
        self.asked_to_stop = None
        listener.blocking = True
        coordinator.close()
        if coordinator.finish.outcome == "done":
            self._done(coordinator.server)
        else:
            self.release()
            self.up = False
            self.again_after(self.cluster.dice.uniform(0.5, 8.0))
        return False

    def uploaders(self) -> set[str]:
        """Workers whose updates are on their way to it."""
        return set() if self._coordinator is None else {name for name, _ in self._coordinator._intake._uploads}

    def _done(self, server: Any) -> None:
        server.write_derived()
        self.cluster.ended(server)
        self.release()
        self.up = False

    def release(self) -> None:
        if self._listener is not None:
            self._listener.crash()
        if self._coordinator is not None:
            self._coordinator._intake.close()
        if self._open is not None:
            self._open.journal.close()
            self._open.lock.release()
        self._open = self._coordinator = self._listener = None

    # --- its view ------------------------------------------------------------------------------

    def note(self, level: str, text: str) -> None:
        self.cluster.log(f"coordinator: {text}")

    def progress(self, live: dict[str, Any]) -> None:
        self.awaited = f"{live['phase']}, {live['awaited']}" if self.cluster.calm else ""

    def committed(self, row: dict[str, Any]) -> None:
        self.cluster.log(f"coordinator: round {row['round']} is {row['digest'][:12]}")

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        pass


def _check(state: Any) -> None:
    """Its invariants are looked at after every event."""
    handle = state.handle

    def checked(event: Any, now: float) -> Any:
        commands = handle(event, now)
        state.validate()
        return commands

    state.handle = checked
