"""Named tensors: combined only when names and shapes agree, in float64, independent of the mapping's order."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fedmq import tensors
from fedmq.errors import LocalProtocolError

A = {"b": np.array([[1.0, 2.0]], np.float32), "a": np.array([3.0], np.float32)}


def test_spec_is_sorted_and_exact() -> None:
    assert list(tensors.spec(A).items()) == [("a", ("float32", (1,))), ("b", ("float32", (1, 2)))]


def test_zeros_like_is_float64_unless_told_otherwise() -> None:
    assert tensors.spec(tensors.zeros_like(A)) == {"a": ("float64", (1,)), "b": ("float64", (1, 2))}
    assert tensors.zeros_like(A, np.float32)["a"].dtype == np.float32


def test_algebra_is_float64() -> None:
    # 1 + 2^-24 is no float32: a sum in float32 would lose the small part.
    one, small = {"w": np.array([1.0], np.float32)}, {"w": np.array([2.0**-24], np.float32)}
    total = tensors.add(one, small)
    assert total["w"].dtype == np.float64
    assert total["w"][0] == 1 + 2.0**-24
    assert tensors.subtract(total, one)["w"][0] == 2.0**-24
    assert tensors.scale(small, 0.5)["w"][0] == 2.0**-25


def test_a_difference_is_made_when_it_is_asked_for() -> None:
    difference = tensors.Difference(A, tensors.scale(A, 0.25))
    assert (list(difference), len(difference)) == (["b", "a"], 2)
    assert difference["b"].tolist() == [[0.75, 1.5]] and difference["b"].dtype == np.float64
    difference["b"][:] = 0
    assert difference["b"].tolist() == [[0.75, 1.5]], "whoever has one may change it"


def test_zeros_share_no_number() -> None:
    zeros = tensors.zeros_like(A)
    zeros["a"] += 1
    assert (zeros["a"].tolist(), zeros["b"].tolist()) == ([1.0], [[0.0, 0.0]])


def test_packed_tensors_are_views_of_one_array() -> None:
    both = tensors.packed(A)
    assert (list(both), both.array.tolist()) == (["a", "b"], [3.0, 1.0, 2.0])
    assert tensors.digest(both) == tensors.digest(A) and tensors.packed(both) is both
    both.array *= 2
    both["b"] += 1
    assert both["a"].tolist() == [6.0] and both["b"].tolist() == [[3.0, 5.0]]
    assert A["b"].tolist() == [[1.0, 2.0]], "a copy"


def test_no_tensors_and_copies_are_packed_too() -> None:
    assert len(tensors.packed({})) == 0 and tensors.packed({}).array.size == 0
    both = tensors.packed(A)
    assert both["a"].tolist() == [3.0]
    copied = copy.deepcopy(both)
    copied["a"] += 1
    assert copied.array.tolist() == [4.0, 1.0, 2.0] and both.array.tolist() == [3.0, 1.0, 2.0]


def test_side_by_side_are_the_same_numbers() -> None:
    both = tensors.packed(A)
    ((left, right),) = tensors.side_by_side(both, both)
    assert left is both.array and right is both.array
    found = {len(left): (left.tolist(), right.tolist()) for left, right in tensors.side_by_side(both, A)}
    assert found == {1: ([3.0], [3.0]), 2: ([1.0, 2.0], [1.0, 2.0])}


@pytest.mark.parametrize("operation", [tensors.add, tensors.subtract, tensors.Difference, tensors.require_same_shapes])
def test_what_does_not_fit_is_named(operation: object) -> None:
    with pytest.raises(LocalProtocolError, match=r"\['b'\]"):
        operation(A, {"a": A["a"]})  # type: ignore[operator]
    # (1, 2) and (2,) would broadcast silently.
    flat = A | {"b": np.zeros(2, np.float32)}
    for a, b in ((A, flat), (tensors.packed(A), tensors.packed(flat))):
        with pytest.raises(LocalProtocolError, match=r"b: shape \(1, 2\) against \(2,\)"):
            operation(a, b)  # type: ignore[operator]


def test_astype_rounds_to_nearest_even() -> None:
    halves = {"w": np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24])}
    assert tensors.astype(halves, np.float32)["w"].tolist() == [1.0, 1 + 2.0**-22]


def test_l2_norm_does_not_overflow_in_float32() -> None:
    assert tensors.l2_norm({"w": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30)
    assert tensors.l2_norm({}) == 0.0


def test_digest_depends_on_content_only() -> None:
    digest = tensors.digest(A)
    assert tensors.digest(dict(reversed(A.items()))) == digest
    assert tensors.digest({name: np.asfortranarray(value) for name, value in A.items()}) == digest
    assert tensors.digest({name: value.astype(">f4") for name, value in A.items()}) == digest


@pytest.mark.parametrize(
    "other",
    [
        {"b": A["b"], "c": A["a"]},
        {"b": A["b"].reshape(2, 1), "a": A["a"]},
        {"b": A["b"].astype(np.float64), "a": A["a"]},
        {"b": -A["b"], "a": A["a"]},
    ],
    ids=["name", "shape", "dtype", "value"],
)
def test_digest_sees_every_difference(other: dict[str, np.ndarray]) -> None:
    assert tensors.digest(other) != tensors.digest(A)
