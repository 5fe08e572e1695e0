"""What a person reads of a run where there is no terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from fedmq.config import get_default_config
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.console import ConsoleView
from fedmq.runtime.view import live_status

STATE = CoordinatorState(RoundPolicy(num_rounds=2, cohort=1, quorum=1), Timers(), expected=1)
TRAINING = get_default_config().to_run_spec().training
CLIENT = {
    "client_id": "client_0",
    "train_samples": 12,
    "staleness": 0,
    "train_loss": 1.5,
    "train_seconds": 2.0,
    "worker_id": "worker_0",
    "bytes_up": 2_000_000,
    "bytes_down": 1_000_000,
}
ROW = {"round": 1, "seconds": 3.25, "client_metrics": [CLIENT], "bytes_up": 2_000_000, "bytes_down": 12_345}
SCORE = {"perplexity": 20.0, "eval_loss": 2.9957}


def printed(*, quiet: bool = False) -> tuple[ConsoleView, io.StringIO]:
    out = io.StringIO()
    view = ConsoleView(Console(file=out, width=60), quiet=quiet)
    view.progress(live_status(STATE, TRAINING, 0.0, 0.0))
    return view, out


def test_a_round_is_shown_once_when_its_evaluation_is_there() -> None:
    view, out = printed()
    view.committed(ROW)
    assert out.getvalue() == ""
    view.scored(1, SCORE)
    first, second = out.getvalue().splitlines()
    assert first == "round 1/2  perplexity    20.00  loss 2.9957  3.2 s  up 2.00 MB  down 12.3 kB"
    assert second.split() == ["client_0", "12", "texts", "train", "loss", "1.5000", "2.0", "s", "on", "worker_0"]


def test_a_mean_over_some_of_the_clients_says_so() -> None:
    view, out = printed()
    view.committed(ROW)
    view.scored(1, SCORE | {"clients": {"client_0": SCORE}, "unscored_clients": ["client_1"]})
    assert "perplexity    20.00  loss 2.9957  of 1 of 2 clients  3.2 s" in out.getvalue()


def test_the_state_before_training_says_so() -> None:
    view, out = printed()
    view.scored(0, SCORE)
    assert out.getvalue().endswith("(before training)\n")


def test_a_round_that_nobody_could_evaluate_is_shown_all_the_same() -> None:
    view, out = printed()
    view.committed(ROW)
    view.scored(1, None)
    assert "round 1/2  not evaluated" in out.getvalue()


def test_many_clients_are_summed_up() -> None:
    view, out = printed()
    view.committed(ROW | {"client_metrics": [CLIENT | {"client_id": f"client_{k}"} for k in range(25)]})
    view.scored(1, SCORE)
    assert out.getvalue().splitlines()[-1].strip() == "... and 15 more clients"


def test_quiet_prints_warnings_only_and_markup_is_not_interpreted() -> None:
    view, out = printed(quiet=True)
    view.note("info", "joined")
    view.note("warning", "client [bold]x[/bold] failed")
    assert out.getvalue() == "warning: client [bold]x[/bold] failed\n"


def test_without_a_terminal_the_wait_for_workers_is_said_from_time_to_time() -> None:
    view, out = printed()
    for now in (1.0, 11.0, 12.0, 25.0):
        view.progress(live_status(STATE, TRAINING, now, now))
    assert [line for line in out.getvalue().splitlines() if line.startswith("waiting")] == [
        "waiting for 1 more client to join, for 11 s",
        "waiting for 1 more client to join, for 25 s",
    ]


def test_an_update_that_is_late_is_shown_as_such() -> None:
    view, out = printed()
    view.committed(ROW | {"client_metrics": [CLIENT | {"staleness": 2}]})
    view.scored(1, SCORE)
    assert out.getvalue().splitlines()[-1].endswith("2.0 s on worker_0  2 versions late")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[ConsoleView, io.StringIO]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    return ConsoleView(Console(file=out, width=100, color_system=None)), out


def test_on_a_terminal_what_was_scored_and_sent_so_far_is_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    view, out = on_a_terminal(monkeypatch)
    live = live_status(STATE, TRAINING, 0.0, 0.0)
    with view:
        for round in (1, 2):
            view.committed(ROW | {"round": round})
            view.scored(round, SCORE | {"perplexity": 40.0 / round})
        view.progress(live)
    assert "perplexity 20.00 █▁  up 4.00 MB  down 24.7 kB" in out.getvalue()


def test_a_run_that_goes_on_shows_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    view, out = on_a_terminal(monkeypatch)
    before = [ROW | {"round": round, "seconds": 60.0} for round in (1, 2)]
    with view:
        view.resumed(before, {0: SCORE | {"perplexity": 80.0}, 1: SCORE | {"perplexity": 40.0}})
        view.progress(live_status(STATE, TRAINING, 0.0, 0.0) | {"num_rounds": 3, "phase": "training", "round": 3})
    assert "perplexity 40.00 █▁  up 4.00 MB  down 24.7 kB  about 1 min 0 s left" in " ".join(out.getvalue().split("\n"))
    view.scored(2, SCORE)
    assert "round 2/3  perplexity    20.00  loss 2.9957  60.0 s" in out.getvalue()


def test_a_terminal_that_was_closed_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That of a run in the background, say, which no SIGHUP has reached."""
    monkeypatch.setenv("CI", "1")  # lines, no picture
    ours, its = pty.openpty()
    with open(its, "w") as terminal:
        view = ConsoleView(Console(file=terminal))
        view.say("seen")
        assert os.read(ours, 100) == b"seen\r\n"
        os.close(ours)
        view.note("warning", "not seen")
        view.say("not seen")
    (record,) = caplog.records
    assert record.getMessage() == "nobody can read the output any more (Input/output error): the run goes on"


def test_a_reader_that_wants_no_more_ends_the_run_with_a_reason() -> None:
    ours, its = os.pipe()
    os.close(ours)
    code = "from fedmq.runtime.console import ConsoleView; ConsoleView().say('not read')"
    done = subprocess.run([sys.executable, "-c", code], stdout=its, stderr=subprocess.PIPE, text=True)
    os.close(its)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt: nobody reads the output any more"
