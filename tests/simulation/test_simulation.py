"""The product's own processes in a simulated world of faults: every seed ends, with the undisturbed run's adapter.

By day a fixed slice of seeds, at night thousands. A failure names its seed; `simulate.py SEED` shows what happened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import storm
from cluster import Cluster, Shape, simulated
from disk import STEPS
from hosts import Doom
from made_once import made_once
from storm import FAULTS, SHAPES, run_through, simulate, undisturbed
from violation import Violation

from fedmq import atomic
from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.limits import Recent
from fedmq.protocol.roster import Roster
from fedmq.protocol.round_clock import RoundClock
from fedmq.protocol.worker_state import WorkerState
from fedmq.runtime import worker
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.intake import Intake, Stored
from fedmq.storage.blobs import PartialBlob
from fedmq.storage.journal import Journal

GROUP, GROUPS = 18, 4
WHEN = ("before", "after")
NIGHTLY = range(100_000, 110_000)
#: What the network did to single messages, how the trainers behaved, and what came of revoked keys and of floods.
NUISANCES = {
    *("message twice", "data lost", "data again", "data late", "data damaged", "link broken by a message"),
    *("task fails", "power cut: names lost", "power cut: content lost", "coordinator: fsync fails"),
    *("key is revoked for good", "key is allowed again", "message of a revoked key", "link of a revoked key"),
    *("message of a flood", "full: guard: control", "full: guard: data"),
}


@pytest.fixture(scope="session")
def happened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Counter[str]]:
    """The faults of one group of the slice, which is run once."""

    def of(group: int) -> Counter[str]:
        def run(folder: Path) -> None:
            seeds = range(group * GROUP, (group + 1) * GROUP)
            seen = sum((simulate(seed).happened for seed in seeds), Counter())
            (folder / "happened.json").write_text(json.dumps(seen))

        folder = made_once(tmp_path_factory, f"storms-{group}", run)
        return Counter(json.loads((folder / "happened.json").read_text()))

    return of


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_seed_ends_with_the_undisturbed_adapter(group: int, happened: Callable[[int], Counter[str]]) -> None:
    assert happened(group)


def test_every_kind_of_fault_has_happened(happened: Callable[[int], Counter[str]]) -> None:
    every = sum(map(happened, range(GROUPS)), Counter())
    faults = {*(FAULTS.keys() - {"partition"}), "partition up", "partition down", "partition up and down"}
    assert (faults | NUISANCES) - every.keys() == set()


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("power", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_death_at_each_kind_of_step(kind: str, power: bool) -> None:
    def aimed(cluster: Cluster, fault: str) -> None:
        for host in cluster.hosts():
            if host.doom is None:
                host.doom = Doom(cluster.dice.randint(1, 6), kind, power)

    with mock.patch.object(storm, "strike", aimed):
        seen = sum((simulate(seed).happened for seed in range(4)), Counter())
    roles = ["coordinator", *(["worker"] if kind in ("fsync", "replace", "unlink") else [])]
    how = "power cut" if power else "killed"
    assert {role for role in roles if any(f"{role}: {how} {when} {kind}" in seen for when in WHEN)} == set(roles)


@pytest.mark.nightly
@pytest.mark.parametrize("first", NIGHTLY[::500])
def test_many_seeds_end_with_the_undisturbed_adapter(first: int) -> None:
    for seed in range(first, first + 500):
        simulate(seed)


def test_a_seed_is_one_history() -> None:
    script = "import sys; from storm import simulate; print(simulate(int(sys.argv[1])).history)"
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent.parent)])
    histories = {
        subprocess.run(
            [sys.executable, "-c", script, "2"],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert histories == {simulate(2).history}


def _history(shape: Shape, jump_s: float = 0.0, apart_s: float = 0.0) -> str:
    """Of a run in which the time of day jumps on all hosts, and each has been up for so much longer than the last."""
    with simulated(7, shape) as cluster:
        for number, host in enumerate(cluster.hosts()):
            host.boot_s = number * apart_s
        cluster.play(5.0)
        for host in cluster.hosts():
            host.wall_s += jump_s
        run_through(cluster, faults=False)
        assert cluster.witness.committed == undisturbed(shape)
        return cluster.history


@pytest.mark.parametrize("shape", SHAPES)
def test_jumps_of_the_time_of_day_change_nothing_at_all(shape: Shape) -> None:
    assert _history(shape) == _history(shape, jump_s=86400.0) == _history(shape, jump_s=-86400.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_how_long_each_host_is_up_changes_nothing_at_all(shape: Shape) -> None:
    assert _history(shape) == _history(shape, apart_s=1000.0)


def _killed_at_a_rename_and_then_without_power(cluster: Cluster, fault: str) -> None:
    if cluster.coordinator.doom is None:
        then = Doom(cluster.dice.randint(20, 150), power=True)
        cluster.coordinator.doom = Doom(cluster.dice.randint(1, 20), "after rename", then=then)


@pytest.mark.parametrize("seed", range(16))
def test_what_a_killed_process_renamed_is_there_after_a_power_cut(seed: int) -> None:
    with mock.patch.object(storm, "strike", _killed_at_a_rename_and_then_without_power):
        simulate(seed)


# --- a product with a bug in it is found out -----------------------------------------------------


def _accepts_again(self: Any, *args: Any, real: Any = Coordinator.turn, insert: Any = Journal._insert) -> None:
    # The key of the ledger forbids it, too: both must be wrong.
    replaces = mock.patch.object(Journal, "_insert", lambda *of: insert(*of[:3], "OR REPLACE"))
    with replaces, mock.patch.object(Roster, "open", lambda self, job: job in self.jobs):
        real(self, *args)


def _leaves_an_update_out(self: Any, accepted: Any, *args: Any, real: Any = CoordinatorState._aggregate) -> Any:
    return real(self, accepted[1:], *args)


def _freezes_all_rounds(self: Any, round: int, clients: Any, real: Any = Journal.freeze_round) -> None:
    for before in range(1, round):
        self._db.execute("UPDATE rounds SET frozen = ? WHERE round = ?", (json.dumps(sorted(clients)), before))
    real(self, round, clients)


def _commits_all_rounds(self: Any, round: int, digest: str, *args: Any, real: Any = Journal.commit_round) -> None:
    real(self, round, digest, *args)
    self._db.execute("UPDATE rounds SET digest = ? WHERE state = 'committed'", (digest,))


def _says_hello_only_once(self: Any, message: Any, now: float, real: Any = WorkerState._received) -> list[Any]:
    return [] if isinstance(message, m.Reject) and message.code == "REHELLO" else real(self, message, now)


def _acks_at_once(self: Any, stored: Stored, real: Any = Coordinator._uploaded) -> None:
    self._verdict(stored.worker, stored.offer.task, "ACCEPTED")
    real(self, stored)


def _never_syncs(self: Any, real: Any = PartialBlob.finish) -> None:
    with mock.patch.object(self._store, "durable", False):
        real(self)


def _forgets_at_once(self: Any, task: str, code: str, real: Any = WorkerState._judged) -> list[Any]:
    return [*real(self, task, code), *(self._forget(task) if code == "ACCEPTED" else [])]


def _keeps_its_epoch(self: Any, real: Any = Journal.put, **values: str) -> None:
    real(self, **{key: value for key, value in values.items() if key != "epoch"})


def _keeps_what_was_revoked(self: Any, worker: str) -> None:
    pass


def _keeps_offers(self: Any, worker: str, task: str) -> None:
    pass


def _never_forgets(self: Any, key: Any) -> Any:
    return self._values.setdefault(key, self._make())


def _goes_on_from_the_newest(self: Any, client: str, follows: Any, real: Any = ClientStates.recall) -> Any:
    known = real(self, client, follows)
    newest = max(self._folder.glob(f"{client}/*"), key=lambda path: path.stat().st_mtime_ns, default=None)
    return known if newest is None else raw.decode(newest.read_bytes(), raw.read_spec(newest.read_bytes()))


def _keeps_states_in_memory(self: Any, client: str, update: Any, state: Any, real: Any = ClientStates.keep) -> None:
    with mock.patch.object(atomic, "fsync"), mock.patch.object(atomic, "sync"):
        real(self, client, update, state)


@pytest.mark.parametrize(
    ("kind", "name", "bug", "invariant", "first"),
    [
        (Coordinator, "turn", _accepts_again, "I1: .* there is one already", 0),
        (CoordinatorState, "_aggregate", _leaves_an_update_out, "I2: .* were accepted", 1),
        (Journal, "freeze_round", _freezes_all_rounds, "I2: round 1 was frozen as", 3),
        (Journal, "commit_round", _commits_all_rounds, "I3: round 0 was", 1),
        (ClientStates, "recall", _goes_on_from_the_newest, "I4", 0),
        (ClientStates, "keep", _keeps_states_in_memory, "I4", 0),
        (Coordinator, "_uploaded", _acks_at_once, "I5: .* was accepted and is None", 36),
        (PartialBlob, "finish", _never_syncs, "I5: .* not whole", 1),
        (WorkerState, "_judged", _forgets_at_once, "I10: .* is deleted before its round is committed", 0),
        (Journal, "put", _keeps_its_epoch, "I6: epoch 0 after 0", 0),
        (Intake, "revoke", _keeps_what_was_revoked, "I7: .* not allowed: .'updates", 139),
        (Intake, "decline", _keeps_offers, "I8: coordinator holds .* offers", 0),
        (Recent, "of", _never_forgets, "I8: coordinator holds .* of (intake: asked|guard: control)", 2),
        (WorkerState, "_received", _says_hello_only_once, "I11: the run does not end", 0),
    ],
)
def test_a_bug_is_found_by_some_seed_of_the_slice(kind: type, name: str, bug: Any, invariant: str, first: int) -> None:
    """The first seed that is tried is one that has found it before."""
    for shape in SHAPES:
        undisturbed(shape)

    def slice_of_the_day() -> None:
        for seed in range(GROUP * GROUPS):
            simulate(first + seed)

    with mock.patch.object(kind, name, bug), pytest.raises(Violation, match=invariant):
        slice_of_the_day()


def _goes_by_the_time_of_day(self: Any, event: Any, now: float, real: Any = WorkerState.handle) -> list[Any]:
    return real(self, event, worker.time.time())  # type: ignore[no-any-return]


def test_a_worker_that_goes_by_the_time_of_day_is_found() -> None:
    undisturbed(SHAPES[1])
    with mock.patch.object(WorkerState, "handle", _goes_by_the_time_of_day), pytest.raises(AssertionError, match="=="):
        test_jumps_of_the_time_of_day_change_nothing_at_all(SHAPES[1])


def _takes_the_time_of_another_clock(self: Any, message: Any, now: float, real: Any = WorkerState._received) -> Any:
    return self._given(message.tasks, message.left_s) if isinstance(message, m.Tasks) else real(self, message, now)


def test_a_deadline_by_the_clock_of_another_host_is_found() -> None:
    undisturbed(SHAPES[3])
    sends = mock.patch.object(RoundClock, "left_s", lambda self, now: now + 1500.0)
    takes = mock.patch.object(WorkerState, "_received", _takes_the_time_of_another_clock)
    with sends, takes, pytest.raises(AssertionError, match="=="):
        test_how_long_each_host_is_up_changes_nothing_at_all(SHAPES[3])
