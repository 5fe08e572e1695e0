"""What `fedmq inspect` says, of runs that nobody trained."""

from __future__ import annotations

from pathlib import Path

from made_runs import make_run

from fedmq.inspection import inspect_run, inspection_lines

EVIL = "x\x1b]0;owned\x07\x1b[2J\u202e"
WORKER = {"worker": "w0", "suspect": False, "jobs": ["train/4/client_1"], "step": 3, "total_steps": 9}


def test_a_run_that_goes_on_says_what_its_picture_says(tmp_path: Path) -> None:
    found = inspect_run(make_run(tmp_path / "run"))
    live = {"phase": "training", "round": 4, "round_s": 1.0, "num_rounds": 5, "awaited": ["w0: train client_1"]}
    workers = [WORKER | {"tokens_per_s": 1234.5}, WORKER | {"worker": "w1", "jobs": [], "tokens_per_s": None}]
    for row in found["rounds"]:
        row["seconds"] = 61.0
    said = list(inspection_lines(found | {"status": "running", "live": live | {"workers": workers}}))
    assert said[2:6] == [
        "now: training, round 4, about 2 min 1 s left",
        "  w0: train client_1, step 3/9, 1,234 tokens/s",
        "  w1: idle",
        "  waiting for w0: train client_1",
    ]


def test_no_line_commands_the_terminal(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", clients=[EVIL, "b"], warnings=[EVIL], experiment_name=EVIL)
    said = list(inspection_lines(inspect_run(made)))
    assert all(line.isprintable() for line in said)
    assert sum("x\\x1b]0;owned\\x07\\x1b[2J\\u202e" in line for line in said) >= 5, "name, client, warning"
