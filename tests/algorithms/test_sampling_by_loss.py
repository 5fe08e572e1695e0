"""Selection by the losses that clients reported: who is preferred, who is tried, what a liar cannot break."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms.candidates import Candidate, Draw
from fedmq.algorithms.sampling import BY_NAME, oort, power_of_choice
from fedmq.rng import derive


def pool(losses: list[float | None], **fields: list[Any]) -> list[Candidate]:
    """client_0, client_1 ... with these last losses, of round 1."""
    known = [
        Candidate(f"client_{k}", num_examples=10, train_loss=loss, last_trained=0 if loss is None else 1)
        for k, loss in enumerate(losses)
    ]
    for name, values in fields.items():
        known = [one._replace(**{name: value}) for one, value in zip(known, values, strict=True)]
    return known


def draw(count: int, round: int = 2, seed: int = 42) -> Draw:
    return Draw(round, count, derive(seed, "select", round))


def often(rule: Any, candidates: list[Candidate], count: int, round: int = 2, draws: int = 1000) -> Counter[str]:
    return sum((Counter(rule(candidates, draw(count, round, seed))) for seed in range(draws)), Counter())


# --- power of choice


def test_all_as_candidates_makes_it_the_largest_losses() -> None:
    rule = power_of_choice(d=5)
    assert rule(pool([1.0, 5.0, 3.0, 4.0, 2.0]), draw(2)) == {"client_1": 1.0, "client_3": 1.0}
    assert rule(pool([1.0, 5.0, None, 4.0, None]), draw(3)) == dict.fromkeys(["client_1", "client_2", "client_4"], 1.0)


def test_as_many_candidates_as_are_drawn_makes_it_a_draw_by_size() -> None:
    seen = often(power_of_choice(d=1), pool([1.0, 9.0, 5.0], weight=[60.0, 30.0, 10.0]), 1)
    assert [seen[f"client_{k}"] for k in range(3)] == pytest.approx([600, 300, 100], abs=70)


def test_two_of_four_candidates_by_hand() -> None:
    """Equal weights, d = 2, m = 1: the largest loss of each pair, so client k of 4 has k of the 6 pairs."""
    seen = often(power_of_choice(d=2), pool([1.0, 2.0, 3.0, 4.0]), 1, draws=1200)
    assert [seen[f"client_{k}"] for k in range(4)] == pytest.approx([0, 200, 400, 600], abs=70)


def test_without_d_there_are_twice_as_many_candidates() -> None:
    assert [power_of_choice()(pool([1.0, 2.0, 3.0, 4.0]), draw(1, seed=seed)) for seed in range(50)] == [
        power_of_choice(d=2)(pool([1.0, 2.0, 3.0, 4.0]), draw(1, seed=seed)) for seed in range(50)
    ]
    assert set(power_of_choice()(pool([1.0, 2.0, 3.0]), draw(2))) == {"client_1", "client_2"}, "at most all of them"


def test_chance_decides_in_the_first_round() -> None:
    seen = often(power_of_choice(d=4), pool([None] * 4), 2, round=1)
    assert min(seen.values()) > 400


def test_fewer_candidates_than_are_drawn() -> None:
    with pytest.raises(ValueError, match="cannot choose 3 of d = 2 candidates"):
        power_of_choice(d=2)(pool([1.0] * 4), draw(3))
    for d in (0.0, 2.5, -1.0, "2"):
        with pytest.raises(ValueError, match="need a whole d of at least 1"):
            power_of_choice(d=d)  # type: ignore[arg-type]


# --- oort


def test_in_the_first_round_nobody_is_known() -> None:
    seen = often(oort(), pool([None] * 5), 2, round=1)
    assert min(seen.values()) > 300


def test_how_many_new_ones_are_tried() -> None:
    """Of 10, max(0.2, 0.9 * 0.98^(R-1)): 9 in the second round, 5 in the 30th, 2 in the end."""
    candidates = pool([1.0] * 20 + [None] * 20)
    new = {one.client_id for one in candidates[20:]}
    for round, expected in ((2, 9), (30, 5), (400, 2)):
        assert len(new & set(oort()(candidates, draw(10, round)))) == expected
    assert len(new & set(oort(explore=0.0, explore_least=0.0)(candidates, draw(10)))) == 0
    # Where there are too few of one kind, the other fills up.
    assert len(oort()(pool([1.0, None, None]), draw(3))) == 3
    assert len(oort()(pool([1.0, 2.0, None]), draw(3))) == 3


def test_examples_times_loss_is_what_counts() -> None:
    candidates = pool([1.0, 2.0, 3.0, 1.0], num_examples=[10, 10, 10, 100])
    seen = often(oort(cutoff=0.0, clip=1.0), candidates, 1)
    # (n F / 100 + sqrt(0.1 ln 2)) over their sum
    utility = np.array([0.1, 0.2, 0.3, 1.0]) + math.sqrt(0.1 * math.log(2))
    expected = 1000 * utility / utility.sum()
    assert [seen[f"client_{k}"] for k in range(4)] == pytest.approx(expected.tolist(), abs=70)
    # Below 95 % of the best nobody is drawn.
    assert set(often(oort(clip=1.0), candidates, 1, draws=50)) == {"client_3"}


def test_who_was_not_asked_for_long_comes_again() -> None:
    candidates = pool([1.0, 1.0], last_trained=[1, 99])
    # 1 + sqrt(0.1 ln 100 / 1) = 1.68 and 1 + sqrt(0.1 ln 100 / 99) = 1.07
    assert set(often(oort(), candidates, 1, round=100, draws=50)) == {"client_0"}


def test_seconds_play_no_part_unless_it_is_asked_for() -> None:
    slow = pool([1.0, 1.0, 1.0], train_seconds=[1.0, 1.0, 10.0])
    fast = pool([1.0, 1.0, 1.0], train_seconds=[0.1, 0.1, 0.1])
    assert [oort()(slow, draw(1, seed=s)) for s in range(50)] == [oort()(fast, draw(1, seed=s)) for s in range(50)]
    seen = often(oort(cutoff=0.0, time_exponent=1.0), slow, 1)
    assert seen["client_2"] == pytest.approx(1000 * 0.1 / 2.1, abs=25)
    assert seen["client_0"] == pytest.approx(1000 / 2.1, abs=70)
    # T = the 1-quantile is the slowest: nobody is late.
    assert often(oort(time_exponent=2.0, pace=1.0), slow, 1)["client_2"] > 250


@pytest.mark.parametrize("name", ["power_of_choice", "oort"])
def test_a_loss_that_is_none_breaks_nothing(name: str) -> None:
    for lie in (1e308, -1e308, 0.0):
        candidates = pool([2.0, 2.0, lie, None], num_examples=[10, 10, 2**53 - 1, 10])
        assert len(BY_NAME[name]()(candidates, draw(2))) == 2
    # At the 95th percentile of many, one is worth no more than the largest of the others.
    honest = pool([2.0] * 20)
    liar = [*honest[:-1], honest[-1]._replace(train_loss=1e300)]
    assert often(oort(clip=0.9), liar, 1, draws=400)["client_19"] < 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"explore": 1.5}, r"need explore in \[0, 1\], got 1.5"),
        ({"explore_decay": 0.0}, r"need explore_decay in \(0, 1\]"),
        ({"cutoff": -0.1}, "need cutoff in"),
        ({"clip": 0.0}, "need clip in"),
        ({"time_exponent": -1.0}, "need time_exponent >= 0"),
        ({"pace": 0.0}, "need pace in"),
    ],
)
def test_options_that_are_none(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        oort(**options)
