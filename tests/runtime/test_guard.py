"""Whom the coordinator hears, on a clock in the hands of the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import limits
from fedmq.runtime import guard
from fedmq.runtime.guard import Guard, Who
from fedmq.storage.journal import Journal

LINK: Who = ("control", b"1")


class Clock:
    """Stands for the module `time`."""

    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


class Bench:
    """A guard, and what came of it."""

    def __init__(self, journal: Journal) -> None:
        Clock.now = 0.0
        self.notes: list[str] = []
        self.out: list[str] = []
        self.guard = Guard(journal, lambda _, text: self.notes.append(text), self.shut_out)

    def shut_out(self, worker: str, reason: str) -> None:
        self.out.append(worker)

    def passes(self, count: int, who: Who = "w0", plane: str = "control") -> int:
        return sum(self.guard.admits(plane, who) for _ in range(count))  # type: ignore[arg-type]

    def refuse(self, code: str, who: Who = "w0") -> None:
        self.guard.refused(who, RemoteProtocolError(code, "said the test"))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "time", Clock)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.create(tmp_path / "run.db", {})
    yield journal
    journal.close()


@pytest.fixture
def bench(journal: Journal) -> Bench:
    return Bench(journal)


def test_a_flood_is_cut_and_is_one_strike(bench: Bench) -> None:
    assert bench.passes(1000) == 200
    Clock.now = 2.0
    assert bench.passes(1000) == 100, "50 a second"
    assert bench.guard._strikes.of("w0").codes == "FLOOD" and bench.notes == []


def test_a_flood_without_end_quarantines_and_writes_one_note(bench: Bench) -> None:
    for second in range(30):
        Clock.now = float(second)
        bench.passes(500)
    assert bench.out == ["w0"] and len(bench.notes) == 1 and "FLOOD, FLOOD, FLOOD" in bench.notes[0]


def test_floods_that_are_rare_are_forgiven(bench: Bench) -> None:
    for k in range(10):
        Clock.now = 301.0 * k
        bench.passes(1000)
    assert bench.out == []


def test_an_honest_worker_is_never_held_up(bench: Bench) -> None:
    """Heartbeats, and answers as fast as tasks are given, 64 at a time: 20,000 of them within a second."""
    for k in range(320):
        Clock.now = k / 320
        bench.guard.asked("w0", 64)
        assert bench.passes(64) == 64
    assert bench.guard._strikes.of("w0").codes == ""


def test_all_that_lies_finished_may_be_offered_at_once(bench: Bench) -> None:
    for _ in range(3):
        bench.guard.hosts("w0", 1024)
    assert bench.passes(2000) == 200 + 1024, "saying so again fills nothing"


def test_transfers_at_full_speed(bench: Bench) -> None:
    """100 MB in pieces of 64 KiB, all in one moment."""
    assert bench.passes(1600, ("data", b"1"), "data") == 1600
    assert bench.passes(10**5, ("data", b"2"), "data") == 20_000


def test_planes_and_peers_are_counted_apart(bench: Bench) -> None:
    bench.passes(1000)
    assert bench.passes(10, "w1") == bench.passes(10, LINK) == bench.passes(10, plane="data") == 10


def test_joining_is_dear(bench: Bench) -> None:
    def join() -> bool:
        passed = bench.guard.admits("control", "w0")
        if passed:
            bench.guard.joining("w0")
        return passed

    assert sum(join() for _ in range(100)) == 20


@pytest.mark.parametrize("code", sorted(limits.LIES))
def test_three_lies_are_the_end_however_rare(bench: Bench, journal: Journal, code: str) -> None:
    for day in range(4):
        Clock.now = 86_400.0 * day
        bench.refuse(code)
    assert bench.out == ["w0"] and bench.guard.quarantined("w0") is not None
    assert json.loads(journal.get("quarantined") or "").keys() == {"w0"}
    assert Bench(journal).guard.quarantined("w0"), "a resumed run does not forget"
    assert len([note for note in bench.notes if "quarantined for this run" in note]) == 1


@pytest.mark.parametrize("code", sorted(limits.FAULTS - limits.IN_BURSTS))
def test_three_faults_in_a_while_are_the_end_and_rare_ones_are_not(bench: Bench, code: str) -> None:
    for k in range(20):
        Clock.now = 301.0 * k
        bench.refuse(code)
    assert bench.out == []
    bench.refuse(code)
    assert bench.out == ["w0"]


def test_pieces_that_nobody_asked_for_are_one_strike(bench: Bench) -> None:
    for _ in range(16):
        bench.refuse("PUT")
    assert bench.guard._strikes.of("w0").codes == "PUT"


@pytest.mark.parametrize("code", ["VERSION", "LATE", "EMPTY", "SIZE", "NAME", "NAME_TAKEN", "BLOB", "EARLY"])
def test_what_honest_workers_come_by_is_no_strike(bench: Bench, code: str) -> None:
    for _ in range(100):
        bench.refuse(code)
    assert bench.out == [] and len(bench.notes) == 7, "noted at 1, 2, 4 ... 64"


def test_a_link_without_a_name_is_not_read_for_a_while(bench: Bench) -> None:
    for _ in range(3):
        assert bench.passes(1, LINK) == 1
        bench.refuse("MALFORMED", LINK)
    assert bench.passes(100, LINK) == 0 and bench.passes(1, ("control", b"2")) == 1
    assert bench.out == [] and "a link is not listened to" in bench.notes[-1]
    Clock.now = limits.FORGIVEN_AFTER_S
    assert bench.passes(1, LINK) == 1


def test_the_memory_of_links_is_bounded(bench: Bench) -> None:
    for k in range(3 * limits.MAX_PEERS):
        bench.passes(1, ("control", b"%d" % k))
        bench.refuse("MALFORMED", ("control", b"%d" % k))
    assert len(bench.guard._buckets["control"]) == len(bench.guard._strikes) == limits.MAX_PEERS
    assert len(bench.notes) <= 14, "noted ever more rarely, whatever the link"
