"""What a signal says to a run, by signals that this process really gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from fedmq.runtime import stop_signals

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    assert {number: signal.getsignal(number) for number in ENDING} == before, "they are as they were"


@pytest.mark.parametrize("number", ENDING)
def test_during_the_setup_it_interrupts(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"interrupted by {number.name}"), stop_signals.raised():
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_during_the_run_it_is_a_reason_to_be_asked_for(number: signal.Signals) -> None:
    with stop_signals.asked_for() as stopping:
        assert stopping() is None
        os.kill(os.getpid(), number)
        assert stopping() == f"interrupted by {number.name}"


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals.asked_for() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopping() is None
    finally:
        signal.signal(signal.SIGHUP, before)
