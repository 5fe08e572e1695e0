"""Weights of updates, each by its own unit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedmq.algorithms.weighting import by_examples, by_tokens, uniform


@pytest.mark.parametrize(("rule", "expected"), [(by_examples, 8.0), (by_tokens, 200.0), (uniform, 1.0)])
def test_weight(rule: Callable[[int, int], float], expected: float) -> None:
    weight = rule(8, 200)
    assert weight == expected
    assert type(weight) is float
