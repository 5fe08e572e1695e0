"""The credit window: never more in flight than allowed, every byte once when nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedmq.protocol.window import Window


def test_pieces_by_hand() -> None:
    window = Window(total=10, chunk_nbytes=3, credits=2)
    assert window.due() == [(0, 3), (3, 3)]
    assert window.due() == [], "no credit left"
    window.confirm(3)
    assert window.due() == [(6, 3)]
    window.confirm(9)
    assert window.due() == [(9, 1)]
    assert not window.complete
    window.confirm(10)
    assert window.complete and window.due() == []


def test_resume_begins_where_the_last_one_ended() -> None:
    window = Window(total=10, chunk_nbytes=4, credits=8, confirmed=5, sent=5)
    assert window.due() == [(5, 4), (9, 1)]


def test_a_receiver_that_is_further_than_thought_is_not_sent_it_again() -> None:
    window = Window(total=10, chunk_nbytes=2, credits=1)
    assert window.due() == [(0, 2)]
    window.confirm(6)
    assert window.due() == [(6, 2)]


def test_a_receiver_that_threw_bytes_away_gets_them_again() -> None:
    window = Window(total=6, chunk_nbytes=2, credits=3)
    window.due()
    window.confirm(4)
    window.confirm(0)
    assert window.due() == [(0, 2), (2, 2), (4, 2)]


def test_rewind_sends_again_what_was_in_flight() -> None:
    window = Window(total=6, chunk_nbytes=2, credits=2)
    window.due()
    window.confirm(2)
    window.due()
    window.rewind()
    assert window.due() == [(2, 2), (4, 2)]


def test_an_empty_blob_is_complete() -> None:
    window = Window(total=0, chunk_nbytes=4, credits=2)
    assert window.complete and window.due() == []


@given(
    st.integers(0, 200),
    st.integers(1, 17),
    st.integers(1, 9),
    st.lists(st.sampled_from(["deliver", "deliver", "lose", "rewind", "damaged"]), max_size=60),
)
def test_a_lossy_link(total: int, chunk_nbytes: int, credits: int, fates: list[str]) -> None:
    """Whatever is lost, the receiver that takes the next piece only ends with all bytes in order."""
    window, received = Window(total, chunk_nbytes, credits), 0
    flight: list[tuple[int, int]] = []
    for fate in [*fates, "rewind", *["deliver"] * (total + 1)]:
        due = window.due()
        assert all(0 < nbytes <= chunk_nbytes and offset >= 0 and offset + nbytes <= total for offset, nbytes in due)
        assert window.confirmed <= window.sent <= min(total, window.confirmed + credits * chunk_nbytes)
        flight += due
        if fate == "rewind":
            flight.clear()
            window.rewind()
        elif fate == "damaged":
            received = 0
            flight.clear()
            window.confirm(0)
        elif flight:
            offset, nbytes = flight.pop(0)
            if fate == "deliver":
                if offset == received:
                    received += nbytes
                window.confirm(received)
    assert received == total and window.complete


@given(st.integers(0, 200), st.integers(1, 17), st.integers(1, 9))
def test_without_loss_every_byte_is_sent_once(total: int, chunk_nbytes: int, credits: int) -> None:
    window = Window(total, chunk_nbytes, credits)
    sent = bytearray()
    while due := window.due():
        for offset, nbytes in due:
            assert offset == len(sent)
            sent += bytes(nbytes)
            window.confirm(len(sent))
    assert len(sent) == total
