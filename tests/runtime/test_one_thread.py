"""The coordinator's products: on one thread, whatever the process has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from serving import adapter, give, started
from threadpoolctl import threadpool_info, threadpool_limits

from fedmq.algorithms.aggregate import Update, fedavg
from fedmq.runtime import bias
from fedmq.tensors import NamedTensors


def threads() -> set[int]:
    """Of every BLAS that is loaded."""
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def test_a_round_is_folded_and_measured_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    mean, measure = fedavg(), bias.relative_bias

    def fold(state: object, update: Update, weight: float) -> object:
        seen.append(threads())
        return mean.fold(state, update, weight)

    def finish(state: object) -> NamedTensors:
        seen.append(threads())
        return mean.finish(state)

    def measured(modules: object) -> float:
        seen.append(threads())
        return measure(modules)  # type: ignore[arg-type]

    monkeypatch.setattr(bias, "relative_bias", measured)
    with threadpool_limits(2, "blas"):
        server = started(tmp_path, aggregator=mean._replace(fold=fold, finish=finish))
        server.open_round(1, [["client_1"]])
        give(server, "train-1-client_1-0", {n: v + np.float32(1) for n, v in adapter(0).items()})
        server.aggregate(1, ["client_1"])
        server.tidy([])
        assert threads() == {2}, "the rest of the process keeps its own"
    assert seen == [{1}] * 3
