"""What is no number within its limits, or no known name, is refused by its name."""

from __future__ import annotations

import pytest

from fedmq.algorithms.options import one_of, require, whole


@pytest.mark.parametrize(
    ("limits", "least", "most", "wrong"),
    [
        ("> 0", 5e-324, 1e308, [0, -1.0]),
        (">= 0", 0, 1e308, [-5e-324]),
        ("in [0, 1)", 0, 1 - 2**-53, [1, -0.1]),
        ("in [0, 1]", 0, 1, [1.1, -0.1]),
        ("in (0, 1]", 5e-324, 1, [0, 1.1]),
    ],
)
def test_limits(limits: str, least: float, most: float, wrong: list[float]) -> None:
    require(limits, a=least, b=most)
    for value in [*wrong, float("nan"), float("inf"), "1", None]:
        with pytest.raises(ValueError, match="need b .*, got"):
            require(limits, a=least, b=value)


def test_whole_numbers() -> None:
    assert [whole("d", value, least=0) for value in (0, 3, 3.0)] == [0, 3, 3]
    assert isinstance(whole("d", 3.0, least=0), int)
    for value in (-1, 2.5, float("inf"), float("nan"), "3", None):
        with pytest.raises(ValueError, match="need a whole d of at least 0, got"):
            whole("d", value, least=0)


def test_names() -> None:
    one_of(("a", "b"), law="a", other="b")
    with pytest.raises(ValueError, match=r"need other a or b, got 0\.5"):
        one_of(("a", "b"), law="a", other=0.5)
