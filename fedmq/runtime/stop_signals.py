"""SIGINT, SIGTERM and SIGHUP while a run is set up and while it goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that end a process of ours: SIGINT, SIGTERM, and SIGHUP of a terminal that is closed, but under nohup."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


@contextmanager
def raised() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt where the program is; what then cleans up is not disturbed by more."""
    seen: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(f"interrupted by {signal.Signals(number).name}")
        if len(seen) == 1:
            raise KeyboardInterrupt(seen[0])

    with _handled(note):
        yield


@contextmanager
def asked_for() -> Iterator[Callable[[], str | None]]:
    """Signals become a reason that is asked for between two messages, where nothing is half done."""
    seen: list[str] = []
    with _handled(lambda number, frame: seen.append(f"interrupted by {signal.Signals(number).name}")):
        yield lambda: seen[0] if seen else None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Only the main thread may: in another one, signals are the business of whoever has that.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
