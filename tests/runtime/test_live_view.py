"""The picture of a run in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from fedmq.config import get_default_config
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import Held, Job, WorkerState
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.live_view import Shown, drawn, duration, redrawn, sparkline
from fedmq.runtime.view import live_status

WORKER = {
    "worker": "worker_0",
    "clients": 3,
    "suspect": False,
    "jobs": ["train/2/client_0", "train/2/client_1"],
    "phase": "working",
    "step": 12,
    "total_steps": 37,
    "tokens_per_s": 2345.6,
}
LIVE = {"at": 0.0, "phase": "training", "round": 3, "round_s": 0.0, "num_rounds": 5, "workers": [WORKER], "awaited": []}
SHOWN = Shown(LIVE, [900.0, 80.0, 20.0], (4_740_000, 2_370_000), [10.0, 12.0])


def lines(shown: Shown, width: int, encoding: str = "utf-8", **options: Any) -> list[str]:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=out, width=width, force_terminal=True, color_system=None, **options)
    console.print(drawn(shown, console))
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_all_that_one_wants_to_know() -> None:
    first, second, worker = lines(SHOWN, 80)
    assert first == "round 3/5  training  perplexity 20.00 █▃▁  up 4.74 MB  down 2.37 MB"
    assert second == "about 33 s left"
    assert worker.startswith("worker_0 train client_0, client_1 ━━━━━") and worker.endswith(" 12/37 2,346 tokens/s")


@pytest.mark.parametrize("width", [20, 40, 60, 72, 200])
def test_no_line_is_wider_than_the_terminal_and_no_part_is_broken(width: int) -> None:
    awaited = ["worker_0: train client_0, step 12/37, for 5 s"] * 10
    shown = SHOWN._replace(live=LIVE | {"workers": [WORKER] * 20, "awaited": awaited})
    found = lines(shown, width)
    assert max(map(len, found)) <= width
    assert "... and 12 more workers"[: width - 1] in "\n".join(found)
    assert "... and 2 more to wait for"[: width - 1] in "\n".join(found)
    if width >= 40:
        assert "up 4.74 MB" in "\n".join(found) and sum("12/37" in line for line in found[:12]) >= 8


def test_a_terminal_without_blocks() -> None:
    first, *_ = lines(SHOWN, 80, encoding="ascii")
    assert "perplexity 20.00 #-_" in first


def test_who_is_silent_and_who_has_nothing_to_do() -> None:
    idle = WORKER | {"worker": "worker_1", "jobs": [], "total_steps": 0, "step": 0, "tokens_per_s": None}
    shown = SHOWN._replace(live=LIVE | {"workers": [WORKER | {"suspect": True}, idle]})
    *_, first, second = lines(shown, 100)
    assert "silent; train client_0" in first and second.split() == ["worker_1", "idle"]


def test_the_time_left_passes_and_one_long_round_says_little() -> None:
    def left(round_s: float, *seconds: float) -> str:
        shown = SHOWN._replace(live=LIVE | {"round_s": round_s}, round_seconds=seconds)
        return lines(shown, 200)[0].partition("down 2.37 MB  ")[2]

    assert [left(round_s, 10.0, 12.0) for round_s in (0.0, 4.0, 60.0)] == [f"about {s} s left" for s in (33, 29, 22)]
    assert left(0.0, 10.0, 30_000.0, 11.0, 12.0) == "about 12 s left"


@pytest.mark.parametrize(
    ("environ", "a_terminal", "expected"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, True),
        ({}, False, False),
        ({"FORCE_COLOR": "1"}, False, False),
        ({"CI": "true"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
    ids=lambda of: str(of),
)
def test_where_a_picture_can_change(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], a_terminal: bool, expected: bool
) -> None:
    for name in ("CI", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environ).items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    out.isatty = lambda: a_terminal  # type: ignore[method-assign]
    assert redrawn(Console(file=out)) is expected


def test_when_all_rounds_are_done_no_time_is_left() -> None:
    assert not any("left" in line for line in lines(SHOWN._replace(round_seconds=[1.0] * 5), 200))


def test_at_the_beginning_nothing_is_known_and_nothing_is_made_up() -> None:
    (line,) = lines(Shown(LIVE | {"round": 0, "workers": [], "phase": "waiting for workers"}, [], (0, 0), []), 80)
    assert line == "round 0/5  waiting for workers  up 0.0 kB  down 0.0 kB"


def test_tokens_a_second_are_of_what_the_worker_has_in_hand() -> None:
    training = get_default_config().to_run_spec().training
    state = CoordinatorState(RoundPolicy(num_rounds=2, cohort=1, quorum=1), Timers(), expected=1)
    worker = WorkerState("w", {"a": Size(10, 400), "b": Size(10, 600)}, False, frozenset(), 0.0)
    state.roster.workers["w"] = worker
    worker.hand = {Job("train", 1, "a"): Held(0)}
    worker.begin(5.0)
    worker.progress("loading", 0, 0, 7.0)

    def rate(now: float) -> float | None:
        found: float | None = live_status(state, training, now, 0.0)["workers"][0]["tokens_per_s"]
        return found

    assert rate(8.0) is None
    worker.progress("working", 1, 10, 10.0)
    worker.progress("working", 5, 10, 12.0)
    # Half of three epochs of 400 tokens, in two seconds.
    assert rate(12.0) == pytest.approx(0.5 * 3 * 400 / 2)
    few = replace(training, max_samples_per_client=5)
    assert live_status(state, few, 12.0, 0.0)["workers"][0]["tokens_per_s"] == pytest.approx(rate(12.0) / 2)
    worker.begin(20.0)
    worker.progress("working", 1, 10, 30.0)
    assert rate(30.0) is None and rate(31.0) == pytest.approx(0.1 * 3 * 400)
    worker.hand = {Job("evaluate", 1, "test"): Held(0)}
    assert rate(12.0) is None


def test_words() -> None:
    assert sparkline([float(k + 1) for k in range(100)]).endswith("█") and len(sparkline([1.0] * 100)) == 24
    assert [duration(seconds) for seconds in (0.2, 59.6, 3600)] == ["0 s", "1 min 0 s", "1 h 0 min"]
