"""Settings that this device or base cannot do end a run at once, and nothing outlives a run that was killed early."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Federation
from running import children, command_line, eventually, fedmq, wait_gone


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        pytest.param("training", {"precision": "fp16"}, "needs a CUDA device", marks=pytest.mark.nightly),
        ("generation", {"max_new_tokens": 64}, "more than the model's 64 positions"),
    ],
)
def test_one_line_and_exit_code_2(
    federation: Federation,
    tiny_settings: Callable[..., dict[str, Any]],
    section: str,
    values: dict[str, Any],
    words: str,
) -> None:
    settings = tiny_settings()
    settings[section] |= values
    done = fedmq("run", federation.config(**settings), "--workers", 1, cwd=federation.folder)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fedmq: ")]
    assert words in line


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_the_preparation_of_data_ends_with_the_run(
    federation: Federation, tiny_settings: Callable[..., dict[str, Any]], number: int
) -> None:
    gate = federation.gate("tweets")  # the preparation waits in it for the file's content
    settings = tiny_settings()
    settings["data"]["dataset_path"] = str(gate.path)
    run = federation.fedmq("run", federation.config(**settings), "--workers", 1)

    def preparing() -> list[int]:
        return [pid for pid in children(run.pid) if "data partition" in command_line(pid)]

    (pid,) = eventually(preparing, "the preparation")
    gate.reached()
    others = [child for child in children(run.pid) if child != pid]
    run.signal(number)
    run.end()
    for child in (pid, *others):
        wait_gone(child)
