"""Derived randomness: each of the four names matters, nothing else does."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fedmq import rng


@pytest.mark.parametrize(
    "other", [(43, "select", 1, "a"), (42, "train", 1, "a"), (42, "select", 2, "a"), (42, "select", 1, "b")]
)
def test_each_name_matters(other: tuple[int, str, int, str]) -> None:
    names = (42, "select", 1, "a")
    assert rng.derive_seed(*names) != rng.derive_seed(*other)
    assert rng.derive(*names).integers(2**62) != rng.derive(*other).integers(2**62)


def test_names_do_not_run_into_one_another() -> None:
    pairs = [(1, "a", 1, "1b"), (1, "a", 11, "b"), (11, "a", 1, "b"), (1, "a', 1", 1, "b"), (1, "a", 1, "', 'b")]
    assert len({rng.derive_seed(*names) for names in pairs}) == len(pairs)


def test_numpy_integers_are_integers() -> None:
    assert rng.derive_seed(np.int64(42), "select", np.int32(1)) == rng.derive_seed(42, "select", 1)


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = rng.derive(1, "select").integers(2**62)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(1)
    np.random.seed(1)
    assert rng.derive(1, "select").integers(2**62) == first


def test_seeds_stay_the_same_for_ever() -> None:
    """A change here changes every run's result: it must be deliberate."""
    assert rng.derive_seed(42, "select", 1) == 3090354009
    assert rng.derive(42, "select", 1).permutation(5).tolist() == [2, 4, 0, 3, 1]


def test_seeds_are_32_bits_and_spread() -> None:
    seeds = [rng.derive_seed(42, "train", round, f"client_{k}") for round in range(20) for k in range(50)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    # Each of 32 bits is set in about half of 1,000 seeds; 5 standard deviations are 79.
    assert all(abs(sum(seed >> bit & 1 for seed in seeds) - 500) < 80 for bit in range(32))
