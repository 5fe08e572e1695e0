"""One damaged bit anywhere between coordinator and worker: the run ends as it would have.

With keys every flip is noticed. Without, on loopback only, a flip may turn a control message into another valid one,
and nothing can tell: what is promised there is what these tests damage, adapters first of all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from bad_network import Start
from chaos_proxy import Direction, Plane, byte, near, within
from running import accepted

SIZE = 12_500


def run(network: Any, worker: Any, line: Any) -> None:
    network.train()
    network.ends_as_undisturbed()
    assert line.flips == 1
    assert worker.end() == 0
    assert [len(accepted(network.run_dir, round)) for round in (1, 2)] == [2, 2]


def by_night(cases: Iterable[Any], by_day: Iterable[Any]) -> list[Any]:
    """All of them, marked for the night where the day has no time."""
    day = list(by_day)
    return [pytest.param(case, marks=() if case in day else pytest.mark.nightly, id=str(case)) for case in cases]


@pytest.mark.parametrize(
    "where",
    by_night(
        itertools.product(("control", "data"), ("up", "down"), (0, 11, 12, 40, 80, 150), (True, False)),
        [("control", "down", 80, True), ("data", "up", 80, False)],
    ),
)
def test_in_a_handshake(bad_network: Start, where: tuple[Plane, Direction, int, bool]) -> None:
    """The greeting is 64 bytes, then come the commands of the mechanism; with keys or without."""
    plane, direction, nth, keys = where
    network = bad_network(SIZE, num_rounds=2, keys=keys)
    line = network.proxy.line(plane, direction)
    line.flip = byte(nth)
    run(network, network.start_worker(), line)


WITH_KEYS: dict[str, tuple[Plane, Direction, int]] = {
    "task": ("control", "down", 300),
    "offer": ("control", "up", 300),
    "chunk": ("data", "down", 5000),
    "update": ("data", "up", 5000),
    "heartbeat": ("control", "up", 1),
    "answer to a heartbeat": ("control", "down", 1),
}


@pytest.mark.parametrize("what", by_night(WITH_KEYS, ["task", "offer", "chunk"]))
def test_with_keys(bad_network: Start, what: str) -> None:
    plane, direction, nbytes = WITH_KEYS[what]
    network = bad_network(SIZE, num_rounds=2, keys=True)
    worker = network.start_worker()
    network.gate.reached()
    line = network.proxy.line(plane, direction)
    line.flip = within(nbytes)
    run(network, worker, line)


#: A word in the message, and which byte from there. Before it are the size of the frame (1 or 8 bytes) and its flags.
IN_THE_CLEAR: dict[str, tuple[Plane, Direction, bytes, int]] = {
    "type of a task": ("control", "down", b"\xa1v\x07\xa1t\xa5tasks", 8),
    "size of a task": ("control", "down", b"\xa1v\x07\xa1t\xa5tasks", -3),
    "flags of a task": ("control", "down", b"\xa1v\x07\xa1t\xa5tasks", -10),
    "type of an offer": ("control", "up", b"\xa5offer", 2),
    "size of an offer": ("control", "up", b"\xa1v\x07\xa1t\xa5offer", -3),
    "type of a chunk": ("data", "down", b"\xa5chunk", 2),
    "digest of a chunk": ("data", "down", b"\xa6digest\xd9\x40", 12),
    "adapter in a chunk": ("data", "down", b"\xa5chunk", 5000),
    "type of a put": ("data", "up", b"\xa3put", 2),
    "adapter in a put": ("data", "up", b"\xa3put", 5000),
    "type of a verdict": ("control", "down", b"\xa7verdict", 2),
}


@pytest.mark.parametrize("what", by_night(IN_THE_CLEAR, ["type of a task", "digest of a chunk", "adapter in a chunk"]))
def test_in_the_clear(bad_network: Start, what: str) -> None:
    plane, direction, word, n = IN_THE_CLEAR[what]
    network = bad_network(SIZE, num_rounds=2)
    worker = network.start_worker()
    network.gate.reached()
    line = network.proxy.line(plane, direction)
    line.flip = near(word, n)
    run(network, worker, line)
