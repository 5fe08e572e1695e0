"""Rows in memory and in a file are the same rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedmq import build
from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.rows import RowsInMemory, kept_in
from fedmq.storage.spill import SpilledRows


@pytest.mark.parametrize("max_nbytes", [0, 3 * 80, 1 << 20], ids=["all in the file", "some", "none"])
def test_blocks(tmp_path: Path, max_nbytes: int) -> None:
    values = np.random.default_rng(0).normal(size=(7, 10))
    rows, plain = SpilledRows(tmp_path, max_nbytes), RowsInMemory()
    memory = np.empty(10)
    for row in values:
        memory[:] = row
        rows.append(memory)
        plain.append(memory)
    for start, stop in ((0, 10), (0, 1), (3, 8), (9, 10)):
        assert np.array_equal(rows.block(start, stop), values[:, start:stop])
        assert np.array_equal(plain.block(start, stop), values[:, start:stop])
    rows.close()


def test_the_file_has_no_name(tmp_path: Path) -> None:
    rows = SpilledRows(tmp_path, max_nbytes=0)
    rows.append(np.ones(1000))
    assert os.listdir(tmp_path) == []
    rows.close()


def test_a_rule_gives_the_same_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(7, 50))
    rule = build.aggregator("bulyan")
    found = []
    for one in (rule, kept_in(rule, lambda: SpilledRows(tmp_path, max_nbytes=800))):
        state = one.init({"w": np.zeros(50)})
        for k, row in enumerate(values):
            state = one.fold(state, Update(f"client_{k}", 0, 1, 1, {"w": row}), 1.0)
        found.append(one.finish(state)["w"])
    assert np.array_equal(*found)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """What is held is what may be held, whatever is appended."""
    rows = SpilledRows(tmp_path, max_nbytes=8000)
    for _ in range(50):
        rows.append(np.ones(500))
    assert sum(row.nbytes for row in rows._rows) == 8000
    assert rows.block(0, 500).shape == (50, 500)
    rows.close()
