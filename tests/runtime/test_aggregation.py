"""A round's aggregation at the server: what outlives it, what a rule may do wrong, and how the run then goes on."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import adapter, give, make_server, started

from fedmq import build
from fedmq.algorithms import server_opt
from fedmq.algorithms.aggregate import Aggregator, fedavg
from fedmq.algorithms.rows import Matrix, kept_in, of_rows
from fedmq.errors import RunError, StorageError
from fedmq.runtime.aggregation import NOTHING, Remembered
from fedmq.storage.spill import SpilledRows

CLIENTS = [f"client_{k}" for k in range(7)]


def play(server: Any, round: int, clients: list[str] = CLIENTS) -> None:
    """One round without its aggregation."""
    server.open_round(round, [[client] for client in clients])
    bring(server, round, clients)


def bring(server: Any, round: int, clients: list[str]) -> None:
    for client in clients:
        give(server, f"train-{round}-{client}-0", adapter(100 * round + int(client[-1])))


@pytest.mark.parametrize("optimizer", [server_opt.none(), server_opt.adam()], ids=["none", "adam"])
def test_what_centered_clipping_starts_from_survives(tmp_path: Path, optimizer: server_opt.ServerOptimizer) -> None:
    """Killed after each step of three rounds, once with a set that is frozen and not yet folded."""

    def rule(folder: Path) -> dict[str, Any]:
        kept = kept_in(build.aggregator("centered_clip", tau=2.0), lambda: SpilledRows(folder, max_nbytes=0))
        return {"aggregator": kept, "server_optimizer": optimizer}

    whole, broken = (started(tmp_path / name, **rule(tmp_path)) for name in "ab")
    for round in (1, 2, 3):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        play(broken, round)
        broken.journal.freeze_round(round, sorted(CLIENTS))
        broken = make_server(tmp_path / "b", **rule(tmp_path))
        assert broken.progress().version == round
        broken.tidy([])
        broken = make_server(tmp_path / "b", **rule(tmp_path))
    assert broken.journal.digest(3) == whole.journal.digest(3)
    forgetful = build.aggregator("centered_clip", tau=2.0)._replace(after=None)
    alone = started(tmp_path / "c", aggregator=forgetful, server_optimizer=optimizer)
    for round in (1, 2, 3):
        play(alone, round)
        alone.aggregate(round, CLIENTS)
    assert alone.journal.digest(1) == whole.journal.digest(1), "the first round starts from 0"
    assert alone.journal.digest(2) != whole.journal.digest(2), "the second from where the first came to"


@pytest.mark.parametrize(
    "memory",
    [
        NOTHING,
        Remembered({}, {"a/b": np.ones(2)}, {"c": np.ones(3, np.float32)}),
        Remembered({"m:a": np.ones(2), "round": np.zeros(())}, {}, {}),
    ],
)
def test_what_is_remembered_is_one_file_or_none(memory: Remembered) -> None:
    content = memory.encoded()
    assert (content is None) == (memory == NOTHING)
    again = Remembered.decoded(content)
    assert [{name: value.tolist() for name, value in part.items()} for part in again] == [
        {name: value.tolist() for name, value in part.items()} for part in memory
    ]


@pytest.mark.parametrize("name", sorted({*build.AGGREGATORS} - {"fedavg", "norm_clip"}))
def test_a_resumed_round_has_the_same_bits_in_memory_and_in_a_file(tmp_path: Path, name: str) -> None:
    digests = set()
    for folder, held in ((tmp_path / "memory", 1 << 20), (tmp_path / "file", 0)):
        rule = kept_in(build.aggregator(name), lambda held=held: SpilledRows(tmp_path, max_nbytes=held))  # type: ignore[misc]
        server = started(folder, aggregator=rule)
        play(server, 1)
        server.journal.freeze_round(1, sorted(CLIENTS))
        server = make_server(folder, aggregator=rule)
        server.progress()
        digests.add(server.journal.digest(1))
    assert len(digests) == 1


@pytest.mark.parametrize("name", sorted(build.AGGREGATORS))
def test_the_order_of_arrival_does_not_change_a_bit(tmp_path: Path, name: str) -> None:
    digests = set()
    for k, order in enumerate((CLIENTS, CLIENTS[::-1], CLIENTS[3:] + CLIENTS[:3])):
        server = started(tmp_path / str(k), aggregator=build.aggregator(name))
        server.open_round(1, [[client] for client in CLIENTS])
        bring(server, 1, order)
        server.aggregate(1, order)
        digests.add(server.journal.digest(1))
    assert len(digests) == 1


def test_a_round_with_fewer_updates_than_its_rule_needs_stays_open_and_goes_on(tmp_path: Path) -> None:
    rule = build.aggregator("krum", f=1)
    server, whole = (started(tmp_path / name, aggregator=rule) for name in "ab")
    server.open_round(1, [[client] for client in CLIENTS])
    bring(server, 1, CLIENTS[:4])
    with pytest.raises(RunError, match="round 1: krum with f 1 needs at least 5 updates, the round has 4: .*--resume"):
        server.aggregate(1, CLIENTS[:4])
    assert server.journal.rounds()[-1]["state"] == "open" and server.journal.last_committed() == 0
    again = make_server(tmp_path / "a", aggregator=rule)
    assert len(again.progress().accepted) == 4
    bring(again, 1, CLIENTS[4:])
    again.aggregate(1, CLIENTS)
    play(whole, 1)
    whole.aggregate(1, CLIENTS)
    assert again.journal.digest(1) == whole.journal.digest(1)


def raising(matrix: Matrix) -> np.ndarray:
    raise ZeroDivisionError("of two\nlines")


def too_short(matrix: Matrix) -> np.ndarray:
    return np.zeros(matrix.size - 1)


def not_finite(matrix: Matrix) -> np.ndarray:
    return np.full(matrix.size, np.nan)


def other_names() -> Aggregator:
    return fedavg()._replace(finish=lambda state: {"other": np.zeros(1)}, name="mine")


def bad_init() -> Aggregator:
    return fedavg()._replace(init=lambda like: like.nothing)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: of_rows(raising), "rule test_aggregation.raising failed: ZeroDivisionError: of two lines; nothing of"),
        (lambda: of_rows(too_short), "too_short gave an array of shape (43,), expected (44,); nothing"),
        (lambda: of_rows(not_finite), "not_finite failed: it gave NaN or infinity"),
        (other_names, "rule mine failed: tensors differ in names"),
        (bad_init, "rule fedavg failed: AttributeError: "),
    ],
)
def test_a_rule_that_fails_ends_the_run_in_one_line_and_mended_it_goes_on(
    tmp_path: Path, make: Callable[[], Aggregator], said: str
) -> None:
    server, whole = started(tmp_path / "a", aggregator=make()), started(tmp_path / "b")
    play(server, 1)
    with pytest.raises(RunError) as caught:
        server.aggregate(1, CLIENTS)
    assert said in str(caught.value) and "round 1: the aggregation rule" in str(caught.value)
    assert "\n" not in str(caught.value) and "--resume" in str(caught.value)
    assert server.journal.last_committed() == 0
    with pytest.raises(RunError):
        make_server(tmp_path / "a", aggregator=make()).progress()
    mended = make_server(tmp_path / "a")
    assert mended.progress().version == 1
    play(whole, 1)
    whole.aggregate(1, CLIENTS)
    assert mended.journal.digest(1) == whole.journal.digest(1)


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes: what a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_told_as_such(tmp_path: Path) -> None:
    rows = SpilledRows(tmp_path, max_nbytes=0)
    with small_files(), pytest.raises(StorageError, match="cannot be written .*--resume"):
        rows.append(np.ones(100))
    rows.close()
