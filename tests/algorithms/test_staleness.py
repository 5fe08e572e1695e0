"""What stale updates are worth: rows of the papers, and options that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from fedmq.algorithms import staleness


def test_a_fresh_update_is_worth_itself_and_an_older_one_never_more() -> None:
    for make in staleness.BY_NAME.values():
        factors = [make()(age) for age in range(30)]
        assert factors[0] == 1.0
        assert factors == sorted(factors, reverse=True) and min(factors) > 0


def test_rows() -> None:
    assert [staleness.polynomial()(age) for age in (0, 1, 3, 8, 15)] == pytest.approx([1, 0.5**0.5, 0.5, 1 / 3, 0.25])
    assert [staleness.polynomial(a=1)(age) for age in (0, 1, 3)] == [1.0, 0.5, 0.25]
    assert [staleness.hinge(a=10, b=4)(age) for age in (3, 4, 5, 14)] == pytest.approx([1, 1, 1 / 11, 1 / 101])
    assert staleness.constant()(99) == 1.0


def test_a_buffer_of_its_options() -> None:
    assert staleness.fedbuff(3, "constant", max_staleness=7)[:2] == (3, 7)
    assert staleness.fedbuff().discount(3) == 0.5
    assert staleness.fedbuff(discount="polynomial", a=1).discount(1) == 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"buffer_size": 0}, "need a whole buffer_size of at least 1, got 0"),
        ({"buffer_size": 1.5}, "got 1.5"),
        ({"discount": "linear"}, "need discount constant or polynomial or hinge, got 'linear'"),
        ({"discount": "constant", "a": 1.0}, "discount constant has no option a"),
        ({"b": 3}, "discount polynomial has no option b"),
        ({"a": -0.5}, "need a >= 0"),
        ({"discount": "hinge", "a": 0}, "need a > 0"),
        ({"discount": "hinge", "b": 0.5}, "need a whole b"),
        ({"max_staleness": -1}, "need a whole max_staleness of at least 0, got -1"),
    ],
)
def test_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        staleness.fedbuff(**options)
