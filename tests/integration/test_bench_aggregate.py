"""bench_aggregate.py and its scripts run, on updates of a twelfth of the size."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from running import REPO, environment

sys.path.insert(0, str(REPO / "benchmarks"))
from aggregate_updates import adapter, examples, shapes

from fedmq import build


def bench(*arguments: object) -> str:
    command = [sys.executable, str(REPO / "benchmarks" / "bench_aggregate.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_updates_are_those_of_gpt2() -> None:
    assert sum(np.prod(shape) for shape in shapes(12).values()) == 811_008
    assert not np.array_equal(*(next(iter(adapter(k, 1).values())) for k in (0, 1))) and examples(0) == 10


@pytest.mark.nightly
def test_every_rule_is_measured() -> None:
    found = json.loads(bench("--counts", 7, "--repeats", 1, "--layers", 1, "--json"))
    figures = found["counts"]["7"]
    assert figures["rules"].keys() == build.AGGREGATORS.keys()
    assert all(of["seconds"]["median"] > 0 and of["peak_mb"]["median"] > 10 for of in figures["rules"].values())
    assert figures["fold"]["share_of_numpy"]["median"] > 0


def test_distances_of_many_are_left_out_and_figures_are_for_people_too() -> None:
    shown = bench("--counts", 7, "--repeats", 1, "--layers", 1, "--rules", "median", "krum", "--most-pairwise", 6)
    assert "7 clients: fold / numpy " in shown and "median" in shown and "krum" not in shown
