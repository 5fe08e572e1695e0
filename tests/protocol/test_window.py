"""The credit window: never more in flight than allowed, every byte once when nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.protocol.pace import FIRST_NBYTES, MAX_PATIENCE_S, MIN_NBYTES, MIN_PATIENCE_S, Pace
from fedmq.protocol.window import Window


def window(total: int, nbytes: int = 2, credits: int = 2, confirmed: int = 0) -> Window:
    """On a link that is neither fast nor slow, so that pieces stay as they are."""
    pace = Pace(nbytes, credits)
    pace.credits = credits
    return Window(total, pace, confirmed)


def test_pieces_by_hand() -> None:
    w = window(10, 3)
    assert w.due(0.0) == [(0, 3), (3, 3)]
    assert w.due(1.0) == [], "no credit left"
    assert w.confirm(3, 1.0)
    assert w.due(1.0) == [(6, 3)]
    w.confirm(9, 2.0)
    assert w.due(2.0) == [(9, 1)]
    assert not w.complete
    w.confirm(10, 3.0)
    assert w.complete and w.due(3.0) == []


def test_resume_begins_where_the_last_one_ended() -> None:
    assert window(10, 4, 8, confirmed=5).due(0.0) == [(5, 4), (9, 1)]


def test_a_receiver_that_is_further_than_thought_is_not_sent_it_again() -> None:
    w = window(10, credits=1)
    assert w.due(0.0) == [(0, 2)]
    w.confirm(6, 1.0)
    assert w.due(1.0) == [(6, 2)]


def test_a_receiver_that_threw_bytes_away_gets_them_again() -> None:
    w = window(6, credits=3)
    w.due(0.0)
    w.confirm(4, 1.0)
    assert w.confirm(0, 2.0)
    assert w.due(2.0) == [(0, 2), (2, 2), (4, 2)]


def test_an_answer_that_says_nothing_new() -> None:
    w = window(6)
    w.due(0.0)
    assert [w.confirm(offset, 1.0) for offset in (0, 2, 2)] == [False, True, False]


def test_rewind_sends_again_what_was_in_flight() -> None:
    w = window(6)
    w.due(0.0)
    w.confirm(2, 1.0)
    w.due(1.0)
    w.rewind()
    assert w.due(2.0) == [(2, 2), (4, 2)]


def test_what_could_not_go_is_due_again_and_nothing_else() -> None:
    w = window(10, credits=3)
    w.due(0.0)
    w.unsend(2)
    assert w.due(1.0) == [(2, 2), (4, 2)]


def test_an_empty_blob_is_complete() -> None:
    w = window(0)
    assert w.complete and w.due(0.0) == []


@given(
    st.integers(0, 200),
    st.integers(1, 17),
    st.integers(1, 9),
    st.lists(st.sampled_from(["deliver", "deliver", "lose", "rewind", "damaged", "full"]), max_size=60),
)
def test_a_lossy_link(total: int, chunk_nbytes: int, credits: int, fates: list[str]) -> None:
    """Whatever is lost, the receiver that takes the next piece only ends with all bytes in order."""
    pace = Pace(chunk_nbytes, credits)
    window, received, now = Window(total, pace), 0, 0.0
    flight: list[tuple[int, int]] = []
    for fate in [*fates, "rewind", *["deliver"] * (total + 1)]:
        now += 0.5
        due = window.due(now)
        assert all(0 < nbytes <= chunk_nbytes and offset >= 0 and offset + nbytes <= total for offset, nbytes in due)
        assert window.confirmed <= window.sent <= min(total, window.confirmed + credits * chunk_nbytes)
        if fate == "full" and due:
            window.unsend(due[-1][0])
            due.pop()
        flight += due
        if fate == "rewind":
            flight.clear()
            window.rewind()
        elif fate == "damaged":
            received = 0
            flight.clear()
            window.confirm(0, now)
        elif flight and fate != "full":
            offset, nbytes = flight.pop(0)
            if fate == "deliver":
                if offset == received:
                    received += nbytes
                window.confirm(received, now)
    assert received == total and window.complete


@given(st.integers(0, 200), st.integers(1, 17), st.integers(1, 9))
def test_without_loss_every_byte_is_sent_once(total: int, chunk_nbytes: int, credits: int) -> None:
    window = Window(total, Pace(chunk_nbytes, credits))
    sent = bytearray()
    while due := window.due(0.0):
        for offset, nbytes in due:
            assert offset == len(sent)
            sent += bytes(nbytes)
            window.confirm(len(sent), 0.0)
    assert len(sent) == total


# --- how fast --------------------------------------------------------------------------------------


def test_fast_pieces_grow_to_what_the_coordinator_allows() -> None:
    pace, sizes = Pace(1 << 20, 4), []
    for _ in range(6):
        sizes.append((pace.nbytes >> 10, pace.credits))
        pace.took(pace.nbytes, 0.1)
    assert sizes == [(64, 2), (128, 3), (256, 4), (512, 4), (1024, 4), (1024, 4)]


def test_slow_pieces_shrink_and_few_are_in_flight() -> None:
    pace, sizes = Pace(1 << 20, 8), []
    pace.took(pace.nbytes, 0.1)
    for _ in range(7):
        sizes.append((pace.nbytes >> 10, pace.credits))
        pace.took(pace.nbytes, 2.1)
    assert sizes == [(128, 3), *((nbytes, 2) for nbytes in (64, 32, 16, 8, 4, 4))]


def test_pieces_of_another_size_say_nothing() -> None:
    pace = Pace(1 << 20, 8)
    pace.took(2 * FIRST_NBYTES, 2.1), pace.took(FIRST_NBYTES // 2, 0.1), pace.took(FIRST_NBYTES, 1.0)
    assert (pace.nbytes, pace.credits) == (FIRST_NBYTES, 2)
    pace.took(100, 2.1)
    assert pace.nbytes == FIRST_NBYTES // 2, "so small, and yet slow"


def test_the_length_of_the_way_does_not_count_as_slowness() -> None:
    """Each window takes a second to arrive and arrives at once: the link carries more."""
    window, now = Window(1 << 24, Pace(1 << 20, 8)), 0.0
    while not window.complete:
        due, now = window.due(now), now + 1.0
        for offset, nbytes in due:
            window.confirm(offset + nbytes, now)
    assert window.pace.nbytes == 1 << 20 and now < 10, "at first 128 KiB a second"


@pytest.mark.parametrize(("slowest_s", "patience_s"), [(0.001, MIN_PATIENCE_S), (2.0, 16.0), (30.0, MAX_PATIENCE_S)])
def test_patience_follows_the_slowest_piece_of_late(slowest_s: float, patience_s: float) -> None:
    pace = Pace(1 << 20, 8)
    assert pace.patience_s == 10.0, "before anything is known"
    for _ in range(3):
        for seconds in (slowest_s, *[slowest_s / 2] * 3):
            pace.took(pace.nbytes, seconds)
        pace.took(pace.nbytes, slowest_s)
    assert pace.patience_s == pytest.approx(patience_s)


@given(st.integers(1, 1 << 21), st.lists(st.floats(0.0, 100.0), max_size=50))
def test_bounds(max_nbytes: int, seconds: list[float]) -> None:
    pace = Pace(max_nbytes, 8)
    for each in seconds:
        pace.took(pace.nbytes, each)
        assert min(MIN_NBYTES, max_nbytes) <= pace.nbytes <= max_nbytes
        assert 2 <= pace.credits <= 8
