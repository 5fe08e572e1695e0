"""A round as a matrix: one row a client, columns by the names of tensors, kept where it is said."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq import tensors
from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.rows import Matrix, RowsInMemory, kept_in, of_rows

LIKE = {"b": np.zeros((2, 2), np.float32), "a": np.zeros(3, np.float32), "empty": np.zeros((0, 5)), "c": np.zeros(())}


def adapter(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=value.shape) for name, value in LIKE.items()}


def fold(rule: Aggregator, updates: list[tensors.NamedTensors], like: tensors.NamedTensors = LIKE) -> object:
    state = rule.init(like)
    for k, delta in enumerate(updates):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, delta), 1.0 + k)
    return state


def test_a_rule_sees_rows_weights_and_size_and_its_row_becomes_tensors_again() -> None:
    seen: list[Matrix] = []

    def second(matrix: Matrix) -> np.ndarray:
        seen.append(matrix)
        return np.concatenate([block[1] for _, block in matrix.blocks()])

    rule = of_rows(second)
    found = rule.finish(fold(rule, [adapter(0), adapter(1), adapter(2)]))
    assert tensors.digest(found) == tensors.digest(adapter(1)) and list(found) == list(LIKE)
    assert (seen[0].weights.tolist(), seen[0].size, seen[0].last.tolist()) == ([1.0, 2.0, 3.0], 8, [0.0] * 8)
    assert rule.label().endswith("second") and rule.fewest == 1 and rule.after is None


def test_the_order_of_names_does_not_change_a_bit() -> None:
    """Of sums over all numbers: an adapter that was read from a file may name its tensors in another order."""

    def norms(matrix: Matrix) -> np.ndarray:
        (row,) = np.concatenate([block for _, block in matrix.blocks()], axis=1)
        return np.full(matrix.size, sum(row.tolist()))

    deltas = {"a": np.array([1e16, 1.0, 0.0]), "b": np.array([[-1e16, 0.0], [0.0, 1.0]]), "c": np.array(0.5)}
    found = []
    for names in (("a", "b", "c"), ("c", "b", "a")):
        like, delta = ({name: deltas[name] * scale for name in names} for scale in (0, 1))
        rule = of_rows(norms)
        found.append(float(rule.finish(fold(rule, [delta], like))["c"]))
    assert found[0] == found[1]


def test_what_a_rule_gave_is_told_to_one_that_wants_to_know() -> None:
    rule = of_rows(lambda matrix: matrix.last + 1, told_last=True)
    assert rule.after is not None
    state = rule.after(fold(rule, [adapter(0)]), adapter(3))
    found = rule.finish(state)
    assert all((found[name] == value + 1).all() for name, value in adapter(3).items())


def test_rows_are_made_for_each_round_and_closed_after_it() -> None:
    class Counted(RowsInMemory):
        closed = 0

        def close(self) -> None:
            Counted.closed += 1
            super().close()

    made: list[Counted] = []

    def make() -> Counted:
        made.append(Counted())
        return made[-1]

    rule = kept_in(of_rows(lambda matrix: np.zeros(matrix.size)), make)
    for rounds in (1, 2):
        state = fold(rule, [adapter(0), adapter(1)])
        assert len(made) == rounds and made[-1].block(0, 1).shape == (2, 1)
        rule.finish(state)
        assert Counted.closed == rounds


def test_a_rule_that_keeps_no_rows_is_left_as_it_is() -> None:
    rule = kept_in(fedavg(), lambda: pytest.fail("no rows are wanted"))
    found = rule.finish(fold(rule, [adapter(0), adapter(0)]))
    assert found["a"] == pytest.approx(adapter(0)["a"], rel=1e-15)
