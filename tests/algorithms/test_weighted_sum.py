"""Sums of several updates in one pass: the same bits by numpy and by compiled code."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms import weighted_sum
from fedmq.algorithms.weighted_sum import AT_ONCE, Kernel, WeightedSum, add_at_once
from fedmq.tensors import Difference, digest, packed, zeros_like

#: of tensors; of the last, numpy works on more than one piece, and no two are alike
SHAPES = {"scalar": (), "empty": (0, 3), "odd": (7, 3), "large": (3, weighted_sum._PIECE // 2 + 5)}
#: float32 of every awkward kind, so that differences of them do not overflow
AWKWARD = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1.1754944e-38, 1e38, -1.5e38, 1 / 3, 1 + 2**-23], np.float32)
WEIGHTS = (0.1, 1e-300, 37.0, 1e200, 1 / 3, 5e-324)


def adapter(seed: int) -> dict[str, np.ndarray]:
    """Half of it awkward numbers, half ordinary ones."""
    draw = np.random.default_rng(seed)
    return {
        name: np.where(draw.random(shape) < 0.5, draw.choice(AWKWARD, shape), draw.normal(size=shape)).astype("f4")
        for name, shape in SHAPES.items()
    }


BASE = adapter(0)
UPDATES = [(Difference(adapter(k + 1), BASE), WEIGHTS[k % len(WEIGHTS)]) for k in range(AT_ONCE + 5)]


def added(fast: Kernel | None, passes: list[int]) -> dict[str, np.ndarray]:
    """The sums of as many updates as these are together."""
    sums, start = zeros_like(BASE), 0
    for count in passes:
        add_at_once(fast, sums, UPDATES[start : start + count])
        start += count
    return sums


@pytest.fixture(scope="module")
def fast() -> Kernel:
    found = weighted_sum.compiled()
    assert found is not None, "numba is in the environment of the tests"
    return found


@pytest.mark.parametrize("name", ["odd", "scalar"])
def test_numpy_adds_as_python_does(name: str) -> None:
    """Floats of Python are added one by one, every product rounded: what both ways are to give."""
    found = added(None, [AT_ONCE, 5])[name].ravel()
    for place, total in enumerate(found.tolist()):
        expected = 0.0
        for difference, weight in UPDATES:
            expected += weight * (float(difference.a[name].flat[place]) - float(BASE[name].flat[place]))
        assert total.hex() == expected.hex()


def test_compiled_code_gives_the_bits_of_numpy(fast: Kernel) -> None:
    plain = digest(added(None, [AT_ONCE, 5]))
    assert digest(added(fast, [AT_ONCE, 5])) == plain
    assert digest(added(fast, [1, 4, AT_ONCE])) == plain, "however many at once"
    assert {name: value.shape for name, value in added(fast, [2]).items()} == SHAPES


def test_adapters_of_one_array_give_the_bits_of_separate_ones(fast: Kernel) -> None:
    base = packed(BASE)
    updates = [(Difference(packed(difference.a), base), weight) for difference, weight in UPDATES[:AT_ONCE]]
    for kernel in (fast, None):
        sums = zeros_like(BASE)
        add_at_once(kernel, sums, updates)
        assert digest(sums) == digest(added(None, [AT_ONCE]))


@pytest.mark.parametrize("way", ["numpy", "compiled"])
def test_the_first_pass_reads_no_sums_and_the_last_divides(fast: Kernel, way: str) -> None:
    found = packed({name: np.full(shape, np.nan) for name, shape in SHAPES.items()})
    add_at_once(fast if way == "compiled" else None, found, UPDATES[:AT_ONCE], begun=False, divisor=7.0)
    wanted = added(None, [AT_ONCE])
    assert digest(found) == digest({name: value / 7.0 for name, value in wanted.items()})


def test_two_threads_share_the_numbers(fast: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = digest(added(None, [AT_ONCE, 5]))
    monkeypatch.setattr(weighted_sum, "_THREAD_PIECE", 1000)
    for _ in range(20):
        assert digest(added(fast, [AT_ONCE, 5])) == plain


def test_one_thread_does_all_where_the_other_has_no_time(fast: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_sum, "_THREAD_PIECE", 1000)
    busy, free = threading.Event(), threading.Event()
    occupied = weighted_sum.second_thread().submit(lambda: (busy.set(), free.wait(60)))
    assert busy.wait(60)
    try:
        assert digest(added(fast, [AT_ONCE])) == digest(added(None, [AT_ONCE]))
        assert not occupied.done(), "it was busy all the while"
    finally:
        free.set()


class Interrupted:
    """An array of which the other thread reads slowly, while the caller is interrupted."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.read = array, threading.Event()

    def __getitem__(self, piece: slice) -> np.ndarray:
        if threading.current_thread() is threading.main_thread():
            assert self.read.wait(60)
            raise KeyboardInterrupt
        self.read.set()
        time.sleep(0.02)
        return self.array[piece]


def test_after_an_interrupt_no_thread_adds_any_more(fast: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_sum, "_THREAD_PIECE", 1000)
    sums, array = np.zeros(50_000), np.ones(50_000, np.float32)
    slow: Any = Interrupted(array)
    with pytest.raises(KeyboardInterrupt):
        fast(sums, array * 0, (slow, *[array] * (AT_ONCE - 1)), (1.0,) * AT_ONCE, True, 1.0)
    then = sums.copy()
    assert weighted_sum.second_thread().submit(lambda: True).result(60), "it has nothing else to do"
    assert 0 < np.count_nonzero(then) < sums.size and np.array_equal(sums, then)


def test_other_numbers_than_float32_are_added_too(fast: Kernel) -> None:
    """float64, big-endian, in Fortran's order, at an odd address, read-only: none is taken for another."""
    like = {"w": np.zeros((4, 3))}
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    odd = np.frombuffer(b"." + values.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 3)
    assert not odd.flags.aligned and not odd.flags.writeable
    frozen = np.frombuffer(values.tobytes(), np.float32).reshape(4, 3)
    found = set()
    for same in (values, values.astype(np.float64), values.astype(">f4"), np.asfortranarray(values), odd, frozen):
        for base in ({"w": np.ones((4, 3), np.float32)}, {"w": np.ones((4, 3))}):
            sums = zeros_like(like)
            add_at_once(fast, sums, [(Difference({"w": same}, base), 0.1)] * 3)
            found.add(digest(sums))
    assert len(found) == 1


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    weighted_sum.compiled.cache_clear()
    yield
    weighted_sum.compiled.cache_clear()


def test_numba_is_asked_for_once_it_pays_and_need_not_be_there(
    without_numba: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = sum(value.size for value in BASE.values())
    monkeypatch.setattr(weighted_sum, "_PAYS_AFTER", 7 * numbers)
    by, sums, asked = WeightedSum(), zeros_like(BASE), []
    for start, stop in ((0, 4), (4, 6), (6, 7)):
        by.add(sums, UPDATES[start:stop])
        asked.append(weighted_sum.compiled.cache_info().currsize)
    assert asked == [0, 0, 1]
    assert weighted_sum.compiled() is None
    assert digest(sums) == digest(added(None, [7]))
