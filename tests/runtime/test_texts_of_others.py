"""What workers and models say reaches people without what a terminal, a log or a reader would obey."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conducting import Bench, Hand, Script, finishing, task_in, training
from rich.console import Console

from fedmq.inspection import inspect_run, inspection_lines
from fedmq.protocol import messages as m
from fedmq.report import plots
from fedmq.runtime.console import ConsoleView
from fedmq.runtime.derived import write_derived

EVIL = "red\x1b[31m \x1b]0;title\x07 \u202etxet \u2066 one\ntwo\rthree\x00\x9b2J \u2028end"
FORBIDDEN = set(EVIL) - set("\n") - {c for c in EVIL if c.isprintable()}
SHOWN = "red\\x1b[31m"


def clean(text: str, breaks: bool = False) -> bool:
    """No control, no mark of direction; and no line break, if it is to be one line."""
    return not FORBIDDEN & set(text) and (breaks or "\n" not in text)


def everything(value: Any) -> list[str]:
    """All strings in a JSON value."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in everything(part)]
    if isinstance(value, list):
        return [text for part in value for text in everything(part)]
    return [value] if isinstance(value, str) else []


def fail(bad: Hand) -> Script:
    """A device, a goodbye and two failures, all in the worst words."""
    bad.hello()
    client = m.HostedClient("client_1", 10, 100, 0, "ab" * 32)
    ready = m.Ready((client,), False, "cd" * 32, 1, 2, EVIL, (), ())
    for _ in range(2):
        bad.say(ready)
        yield
        # It was given the next attempt before its goodbye was read.
        task = [reply for reply in bad.heard() if isinstance(reply, m.Tasks)][-1].tasks[0]
        bad.say(m.TaskFailed(task.task, task.nonce, "ERROR", EVIL), m.Goodbye(EVIL))
        yield
        bad.hello()


def test_failures_devices_goodbyes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    screen = io.StringIO()
    bench = Bench(tmp_path, view=ConsoleView(Console(file=screen, width=10_000)))
    bad, other = bench.hand(), bench.hand("w1", boot="b")

    def script() -> Script:
        other.hello()
        yield from fail(bad)
        yield

    with caplog.at_level(logging.INFO, "fedmq"):
        bench.play(script())
    other.heard()
    for hand in (bad, other):
        hand.say(m.Goodbye("told so"))
    bench.coordinator.close()
    assert bench.coordinator.finish is not None and SHOWN in bench.coordinator.finish.reason
    notes = [note["text"] for note in bench.server.journal.notes()]
    assert sum(SHOWN in note for note in notes) >= 4, "joined on, failed, lost, given up"
    (shutdown,) = [message for message in other.heard() if isinstance(message, m.Shutdown)]
    found = inspect_run(tmp_path)
    one_line = [*notes, bench.coordinator.finish.reason, shutdown.reason, *everything(found), *inspection_lines(found)]
    one_line += [record.getMessage() for record in caplog.records]
    assert all(map(clean, one_line)), [text for text in one_line if not clean(text)]
    assert SHOWN in screen.getvalue() and clean(screen.getvalue(), breaks=True)
    assert len(screen.getvalue().splitlines()) <= len(notes), "no line is made up"
    assert clean(json.dumps(found, ensure_ascii=False))


def test_texts_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, generates=True)
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        yield from finishing(hand)
        task = task_in(hand.said)  # type: ignore[attr-defined]
        hand.say(m.Generated(task.task, task.nonce, (EVIL, "kept: \U0001f469\u200d\U0001f52c\tand\nbreaks", "", "x")))
        yield

    bench.play(script())
    bench.close()
    texts = [row["text"] for row in bench.server.journal.generations()]
    assert clean(texts[0].replace("\u2028", ""), breaks=True) and "red\ufffd[31m" in texts[0]
    assert texts[1] == "kept: \U0001f469\u200d\U0001f52c\tand\nbreaks"
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "training_progress", lambda *arguments, scored: drawn.append((*arguments, scored)))
    bench.server.journal.add_evaluation(
        version=1, unit="test", worker="w0", loss_sum=1.0, num_tokens=1, num_examples=1, seconds=0.0
    )
    for shared in ("both", "A"):
        write_derived(bench.server, "a run", shared)
    assert [arguments[-1] for arguments in drawn] == ["global model, test split", "clients' own models, held-out texts"]
    assert "red" not in repr(drawn), "a plot is drawn from ids and numbers"
    for name in ("training_metrics.json", "global_metrics.json"):
        assert "txet" not in (tmp_path / name).read_text(encoding="utf-8")


def test_the_last_words_of_a_local_worker(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.coordinator.turn(failure=lambda: f"all workers ended: {EVIL}")
    assert bench.coordinator.finish is not None and clean(bench.coordinator.finish.reason)
    assert clean(bench.server.journal.require("reason"))
    bench.close()


def test_what_is_said_of_a_refused_message(tmp_path: Path) -> None:
    """Types, fields, tensors and names of a peer's are quoted, cut, or not shown at all."""
    import msgpack

    bench = Bench(tmp_path)
    hand = bench.hand()

    def script() -> Script:
        for header in ({"v": 7, "t": EVIL}, {"v": 7, "t": "goodbye", "reason": "x", EVIL: 1}):
            hand.inject(msgpack.packb(header))
        yield

    bench.play(script())
    bench.close()
    assert len(bench.view.notes) == 2 and all(map(clean, bench.view.notes))
