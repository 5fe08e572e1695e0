"""The server step: plain, with a learning rate."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq.algorithms.server_opt import none
from fedmq.errors import LocalProtocolError

PARAMS = {"w": np.array([1.0, -2.0], np.float32)}
DELTA = {"w": np.array([0.5, 4.0])}


@pytest.mark.parametrize(("lr", "expected"), [(1.0, [1.5, 2.0]), (0.5, [1.25, 0.0]), (2.0, [2.0, 6.0])])
def test_step_by_hand(lr: float, expected: list[float]) -> None:
    rule = none(lr=lr)
    params, _ = rule.step(PARAMS, DELTA, rule.init(PARAMS))
    assert params["w"].dtype == np.float64
    assert params["w"].tolist() == expected


def test_step_leaves_its_arguments_alone() -> None:
    rule = none(lr=0.5)
    rule.step(PARAMS, DELTA, rule.init(PARAMS))
    assert (PARAMS["w"].tolist(), DELTA["w"].tolist()) == ([1.0, -2.0], [0.5, 4.0])


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_useless_learning_rate_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="learning rate > 0"):
        none(lr=lr)


def test_another_shape_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="w: shape"):
        none().step(PARAMS, {"w": np.zeros(1)}, None)
