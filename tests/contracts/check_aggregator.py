"""What every aggregator must keep; run on each entry of build.AGGREGATORS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from fedmq import tensors
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.errors import LocalProtocolError

#: enough for each rule
COUNT = 8
LIKE = {"A": np.zeros((2, 3), np.float32), "B": np.zeros(4, np.float32)}


def _update(k: int, delta: tensors.NamedTensors) -> Update:
    return Update(f"client_{k}", 0, k + 1, 10 * (k + 1), delta)


def _random(k: int) -> dict[str, np.ndarray]:
    """Small, as deltas are: no rule clips it."""
    draw = np.random.default_rng(k)
    return {name: draw.normal(scale=0.01, size=value.shape) for name, value in LIKE.items()}


def _aggregate(rule: Aggregator, deltas: Sequence[tensors.NamedTensors], weights: list[float]) -> tensors.NamedTensors:
    state = rule.init(LIKE)
    for k, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        state = rule.fold(state, _update(k, delta), weight)
    return rule.finish(state)


def check_aggregator(make: Callable[[], Aggregator]) -> None:
    """Run every check on fresh aggregators from `make`."""
    for check in (
        *(_shapes, _one_update, _consensus, _weight_scale, _deterministic),
        *(_arguments, _reused_memory, _independent, _differences, _refusals),
    ):
        check(make)


def _shapes(make: Callable[[], Aggregator]) -> None:
    result = _aggregate(make(), [_random(k) for k in range(COUNT)], [1.0] * COUNT)
    assert tensors.spec(result) == {name: ("float64", shape) for name, (_, shape) in tensors.spec(LIKE).items()}


def _one_update(make: Callable[[], Aggregator]) -> None:
    count = make().fewest
    result = _aggregate(make(), [_random(0)] * count, [3.0] * count)
    for name, value in _random(0).items():
        assert result[name] == pytest.approx(value, rel=1e-12), "one client's update is the mean"


def _consensus(make: Callable[[], Aggregator]) -> None:
    result = _aggregate(make(), [_random(7)] * COUNT, [float(k + 1) for k in range(COUNT)])
    for name, value in _random(7).items():
        assert result[name] == pytest.approx(value, rel=1e-12), "what all agree on is the mean"


def _weight_scale(make: Callable[[], Aggregator]) -> None:
    deltas = [_random(k) for k in range(COUNT)]
    once, twice = (_aggregate(make(), deltas, [f * (k + 1) for k in range(COUNT)]) for f in (1.0, 1000.0))
    for name in LIKE:
        assert once[name] == pytest.approx(twice[name], rel=1e-9), "only the ratio of weights counts"


def _deterministic(make: Callable[[], Aggregator]) -> None:
    first, second = (_aggregate(make(), [_random(k) for k in range(COUNT)], [1.0] * COUNT) for _ in range(2))
    assert tensors.digest(first) == tensors.digest(second)


def _arguments(make: Callable[[], Aggregator]) -> None:
    deltas = [_random(k) for k in range(COUNT)]
    _aggregate(make(), deltas, [float(k + 1) for k in range(COUNT)])
    unchanged = [tensors.digest(_random(k)) for k in range(COUNT)]
    assert [tensors.digest(d) for d in deltas] == unchanged, "updates are not ours"


def _reused_memory(make: Callable[[], Aggregator]) -> None:
    """The caller computes every delta into the same memory: an aggregator that needs one later keeps a copy."""
    rule = make()
    state, memory = rule.init(LIKE), _random(0)
    for k in range(COUNT):
        for name, value in _random(k).items():
            memory[name][...] = value
        state = rule.fold(state, _update(k, memory), 1.0)
    expected = _aggregate(make(), [_random(k) for k in range(COUNT)], [1.0] * COUNT)
    assert tensors.digest(rule.finish(state)) == tensors.digest(expected)


def _independent(make: Callable[[], Aggregator]) -> None:
    rule, same = make(), [1.0] * COUNT
    other = rule.init(LIKE)
    for k in range(COUNT):
        other = rule.fold(other, _update(k, _random(9)), 1.0)
    ours = [_random(k) for k in range(COUNT)]
    alone = tensors.digest(_aggregate(make(), ours, same))
    assert tensors.digest(_aggregate(rule, ours, same)) == alone, "two states share nothing"
    alone = tensors.digest(_aggregate(make(), [_random(9)] * COUNT, same))
    assert tensors.digest(rule.finish(other)) == alone, "two states share nothing"


def _differences(make: Callable[[], Aggregator]) -> None:
    """As a run gives them: made anew whenever they are asked for, of bases that change; two states at a time."""
    bases = [{name: value + np.float32(k) for name, value in LIKE.items()} for k in range(2)]
    trained = [
        {name: (bases[k % 5 == 4][name] + value).astype(np.float32) for name, value in _random(k).items()}
        for k in range(COUNT)
    ]
    deltas = [tensors.Difference(local, bases[k % 5 == 4]) for k, local in enumerate(trained)]
    weights = [float(k + 1) for k in range(COUNT)]
    expected = tensors.digest(_aggregate(make(), [dict(delta) for delta in deltas], weights))
    rule = make()
    states = [rule.init(LIKE), rule.init(LIKE)]
    for k, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        mixed = delta if k != 6 else dict(delta)
        states = [rule.fold(state, _update(k, mixed), weight) for state in states]
    assert [tensors.digest(rule.finish(state)) for state in states] == [expected] * 2


def _refusals(make: Callable[[], Aggregator]) -> None:
    rule = make()
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="client_3"):
            rule.fold(rule.init(LIKE), _update(3, _random(3)), weight)
    with pytest.raises(LocalProtocolError, match="names"):
        rule.fold(rule.init(LIKE), _update(3, {"A": _random(3)["A"]}), 1.0)
    with pytest.raises(LocalProtocolError, match="B: shape"):
        rule.fold(rule.init(LIKE), _update(3, _random(3) | {"B": np.zeros(5)}), 1.0)
    other = {"A": LIKE["A"], "B": np.zeros(5, np.float32)}
    with pytest.raises(LocalProtocolError, match="B: shape"):
        rule.fold(rule.init(LIKE), _update(3, tensors.Difference(other, other)), 1.0)
    with pytest.raises(ValueError, match="no update"):
        rule.finish(rule.init(LIKE))
    if rule.fewest > 1:
        with pytest.raises(ValueError, match=f"at least {rule.fewest} updates"):
            _aggregate(rule, [_random(k) for k in range(rule.fewest - 1)], [1.0] * (rule.fewest - 1))
