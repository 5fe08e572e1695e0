"""FedAvg: hand-computed rounds, and what must hold for every set of updates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmq import tensors
from fedmq.algorithms.aggregate import Update, fedavg
from fedmq.algorithms.weighted_sum import at_once
from fedmq.errors import LocalProtocolError

LIKE = {"w": np.zeros(3, np.float32)}


def update(client: str, delta: object, num_examples: int = 1) -> Update:
    return Update(client, 0, num_examples, 10 * num_examples, {"w": np.asarray(delta, np.float64)})


def mean(updates: list[Update], weights: list[float], like: tensors.NamedTensors = LIKE) -> np.ndarray:
    rule = fedavg()
    state = rule.init(like)
    for item, weight in zip(updates, weights, strict=True):
        state = rule.fold(state, item, weight)
    return rule.finish(state)["w"]


@pytest.mark.parametrize(
    ("deltas", "weights", "expected"),
    [
        ([[1, 2, 3]], [7], [1, 2, 3]),
        ([[1, 2, 3], [3, 2, 1]], [1, 1], [2, 2, 2]),
        # (1*1 + 3*5)/4 = 4, (0 + 3*4)/4 = 3, (-4 + 0)/4 = -1
        ([[1, 0, -4], [5, 4, 0]], [1, 3], [4, 3, -1]),
        # (2*3 + 1*0 + 5*8)/8 = 5.75, (2*-1 + 2 + 5*2)/8 = 1.25, (0 + 8 + 0)/8 = 1
        ([[3, -1, 0], [0, 2, 8], [8, 2, 0]], [2, 1, 5], [5.75, 1.25, 1]),
        ([[1, 1, 1], [-1, -1, -1]], [2, 2], [0, 0, 0]),
    ],
)
def test_rounds_by_hand(deltas: list[list[float]], weights: list[float], expected: list[float]) -> None:
    updates = [update(f"client_{i}", delta) for i, delta in enumerate(deltas)]
    assert mean(updates, weights).tolist() == expected


def test_sums_are_float64_whatever_comes_in() -> None:
    # In float32, 1 + 2^-25 is 1, so a sum in float32 would give a mean of 2^-1 exactly.
    small = Update("b", 0, 1, 1, {"w": np.full(3, 2.0**-25, np.float32)})
    result = mean([update("a", [1, 1, 1]), small], [1, 1])
    assert result.dtype == np.float64
    assert (result == 0.5 + 2.0**-26).all()


def test_products_are_float64_whatever_comes_in() -> None:
    # 3 * (1 + 2^-23) is no float32.
    delta = np.full(3, 1 + 2.0**-23, np.float32)
    assert mean([Update("a", 0, 1, 1, {"w": delta})], [3]).tolist() == delta.tolist()


def test_folding_leaves_the_update_alone() -> None:
    item = update("a", [1, 2, 3])
    mean([item, item], [1, 2])
    assert item.delta["w"].tolist() == [1, 2, 3]


def test_memory_is_constant_in_the_number_of_clients() -> None:
    rule = fedavg()
    state = rule.init(LIKE)
    buffers, waiting = {id(value) for value in (*state.total.values(), state.scratch)}, []
    for k in range(40):
        delta = tensors.Difference({"w": np.full(3, k, np.float32)}, LIKE)
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, delta), 1)
        assert {id(value) for value in (*state.total.values(), state.scratch)} == buffers
        waiting.append(len(state.waiting))
    assert max(waiting) < at_once(LIKE) <= 12 and waiting[-1] == 40 % at_once(LIKE)
    assert rule.finish(state)["w"].tolist() == [19.5] * 3


def test_scalars_and_empty_tensors_keep_their_shape() -> None:
    like = {"scalar": np.zeros((), np.float32), "empty": np.zeros((0, 3), np.float32)}
    rule = fedavg()
    delta = {"scalar": np.array(4.0), "empty": np.zeros((0, 3))}
    result = rule.finish(rule.fold(rule.init(like), Update("a", 0, 1, 1, delta), 2))
    assert tensors.spec(result) == {"empty": ("float64", (0, 3)), "scalar": ("float64", ())}
    assert result["scalar"] == 4.0


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_useless_weight_is_refused_by_client(weight: float) -> None:
    rule = fedavg()
    with pytest.raises(ValueError, match=r"weight > 0, got .* for client client_7"):
        rule.fold(rule.init(LIKE), update("client_7", [1, 2, 3]), weight)


def test_another_shape_or_name_is_refused_by_tensor() -> None:
    rule = fedavg()
    with pytest.raises(LocalProtocolError, match=r"w: shape \(3,\) against \(1,\)"):
        rule.fold(rule.init(LIKE), update("a", [1]), 1)
    with pytest.raises(LocalProtocolError, match="names"):
        rule.fold(rule.init(LIKE), Update("a", 0, 1, 1, {"v": np.zeros(3)}), 1)


def test_no_update_is_refused() -> None:
    rule = fedavg()
    with pytest.raises(ValueError, match="no update"):
        rule.finish(rule.init(LIKE))


# Below: adapters as they are, of like size. Beyond 2^28 between global and local, float64 cannot hold both.
_VALUES = st.floats(2.0**-12, 2.0**12, width=32).flatmap(lambda x: st.sampled_from([x, -x]))
_ADAPTERS = hnp.arrays(np.float32, 3, elements=_VALUES)
_WEIGHTS = st.integers(1, 10**6)
_SETS = st.lists(st.tuples(_ADAPTERS, _WEIGHTS), min_size=1, max_size=6)


@given(_ADAPTERS, _ADAPTERS, _WEIGHTS)
def test_one_client_is_the_identity_to_the_bit(params: np.ndarray, local: np.ndarray, weight: int) -> None:
    delta = tensors.subtract({"w": local}, {"w": params})
    stepped = tensors.add({"w": params}, {"w": mean([Update("a", 0, 1, 1, delta)], [weight])})
    assert tensors.astype(stepped, np.float32)["w"].tobytes() == local.tobytes()


@given(_ADAPTERS, _WEIGHTS, st.integers(1, 8))
def test_a_consensus_is_kept(local: np.ndarray, weight: int, count: int) -> None:
    result = mean([update(f"client_{k}", local) for k in range(count)], [weight] * count)
    assert result == pytest.approx(local.astype(np.float64), rel=1e-14)


@given(_SETS, st.sampled_from([0.25, 3.0, 1000.0]))
def test_only_the_ratio_of_weights_counts(rows: list[tuple[np.ndarray, int]], factor: float) -> None:
    updates = [update(f"client_{k}", delta) for k, (delta, _) in enumerate(rows)]
    weights = [float(weight) for _, weight in rows]
    assert mean(updates, [factor * w for w in weights]) == pytest.approx(mean(updates, weights), rel=1e-9, abs=1e-9)


@given(_SETS, st.randoms(use_true_random=False))
def test_order_changes_rounding_only(rows: list[tuple[np.ndarray, int]], random: object) -> None:
    """The last bits are the caller's to fix, by folding in client-id order."""
    pairs = [(update(f"client_{k}", delta), float(weight)) for k, (delta, weight) in enumerate(rows)]
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = (mean([u for u, _ in order], [w for _, w in order]) for order in (pairs, shuffled))
    assert a == pytest.approx(b, rel=1e-9, abs=1e-9)


@given(_SETS)
def test_the_mean_is_numpys_average(rows: list[tuple[np.ndarray, int]]) -> None:
    deltas = np.array([delta for delta, _ in rows], np.float64)
    expected = np.average(deltas, axis=0, weights=[weight for _, weight in rows])
    result = mean([update(f"client_{k}", d) for k, d in enumerate(deltas)], [float(w) for _, w in rows])
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (result <= deltas.max(axis=0) + 1e-9).all() and (result >= deltas.min(axis=0) - 1e-9).all()
