"""The coordinator's shell over the memory transport: a worker written by hand says what it should and should not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from conducting import DOWN, Bench, Script, task_in, training, update_of, verdicts
from serving import CONFIG, adapter, offer

from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.policy import RoundPolicy
from fedmq.storage.timeline import timeline


def test_one_round(bench: Bench) -> None:
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        hand.say(update)
        yield
        hand.put(update, content)
        yield
        assert [type(message).__name__ for message in hand.heard()] == ["Verdict", "Verdict", "Committed"]

    bench.play(script())
    assert bench.coordinator.finish is not None and bench.coordinator.finish.outcome == "done"
    assert bench.server.journal.last_committed() == 1
    spans = timeline(bench.server.journal)
    assert [span["kind"] for span in spans] == ["wait", "train", "transfer", "aggregate"]
    assert all(span["start"] <= span["end"] for span in spans)
    assert (bench.server.run_dir / "global_model" / "round_final" / "adapter_config.json").read_text() == CONFIG
    hand.say(m.Goodbye("told so"))
    bench.coordinator.close()
    assert hand.heard() == [m.Shutdown("done", "all rounds committed")]


def test_a_rank_of_a_client_that_nobody_hosts_is_told_of(bench: Bench) -> None:
    """As of one whose name is misspelt: owners' names are known only when they join."""
    bench.server.uploads = bench.server.uploads._replace(ranks={"client_nroth": 2, "client_1": 4})
    hand = bench.hand()

    bench.play(training(hand))
    assert "lora.rank_per_client names client_nroth, and no worker hosts it so far" in bench.view.notes
    assert not any("names client_1," in note for note in bench.view.notes)


def wrong_kind(task: m.Task) -> Any:
    return m.Evaluated(task.task, task.nonce, 1.0, 1, 1, 0.5)


def no_size(task: m.Task) -> Any:
    return offer(task.task, b"x", nonce=task.nonce, blob=m.BlobRef("ab" * 32, 0))


def texts(task: m.Task) -> Any:
    return m.Generated(task.task, task.nonce, ("text",))


@pytest.mark.parametrize("result", [wrong_kind, no_size, texts])
def test_a_result_that_cannot_be_one_is_refused_and_the_task_tried_again(
    bench: Bench, result: Callable[[m.Task], Any]
) -> None:
    """Not only noted: the worker would wait for its verdict for ever, and the round for the worker."""
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        hand.say(result(hand.task))  # type: ignore[attr-defined]
        yield
        messages = hand.heard()
        assert verdicts(messages) == ["INVALID"]
        assert task_in(messages).task == "train-1-client_1-1"

    bench.play(script())
    assert bench.server.journal.updates() == bench.server.journal.evaluations() == []


@pytest.mark.parametrize("spoilt", [np.transpose, lambda value: np.full_like(value, np.nan)])
def test_an_update_that_cannot_be_one_is_refused_and_the_task_tried_again(
    bench: Bench, spoilt: Callable[[np.ndarray], np.ndarray]
) -> None:
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        content = raw.encode({name: spoilt(value) for name, value in adapter(1).items()})
        update = offer("train-1-client_1-0", content, nonce=hand.task.nonce)  # type: ignore[attr-defined]
        hand.say(update)
        yield
        hand.put(update, content)
        yield
        messages = hand.heard()
        assert verdicts(messages) == ["UPLOAD", "INVALID"]
        assert task_in(messages).task == "train-1-client_1-1"

    bench.play(script())
    assert bench.server.journal.updates() == []


@pytest.mark.parametrize("name", ["train", "init"])
def test_two_workers_with_the_very_same_bytes(bench: Bench, name: str) -> None:
    """One was thought lost and is back with its update while the other trains: one upload completes both."""
    first, second = bench.hand("w0"), bench.hand("w1")
    bench.coordinator.state.policy = RoundPolicy(2, cohort=1, quorum=1)

    def script() -> Script:
        if name == "train":
            yield from training(first)
            update, content = update_of(first)
        else:
            first.ready()
            yield
            task, content = task_in(first.heard()), raw.encode(adapter(0))
            update = offer(task.task, content, nonce=task.nonce)
        second.ready()
        yield
        first.say(update)
        second.say(update)
        yield
        assert verdicts(first.heard()) == verdicts(second.heard()) == ["UPLOAD"]
        first.put(update, content)
        yield
        codes = verdicts(first.heard()) + verdicts(second.heard())
        assert sorted(codes) == ["ACCEPTED", "LATE"], "the round is closed by the first of them"

    bench.play(script())
    assert len(bench.server.journal.updates()) == (name == "train")
    assert bench.server.journal.last_committed() == (name == "train")


def test_a_nonce_that_this_run_never_gave(bench: Bench) -> None:
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, _ = update_of(hand, nonce="00" * 16)
        hand.say(update, m.TaskFailed("train-1-client_1-0", "00" * 16, "OOM", ""))
        yield
        assert hand.heard() == []

    bench.play(script())
    assert sum("NONCE" in note for note in bench.view.notes) == 2
    assert all(state.failures == 0 for state in bench.coordinator.state.roster.jobs.values())


def test_before_hello_there_is_only_hello(bench: Bench) -> None:
    hand = bench.hand()

    def script() -> Script:
        hand.say(m.Heartbeat(None, "idle", 0, 0))
        yield
        assert [message.code for message in hand.heard()] == ["REHELLO"]

    bench.play(script())


def test_another_version_is_told_so(bench: Bench) -> None:
    hand = bench.hand()

    def script() -> Script:
        hand.say(m.Hello((m.PROTOCOL_VERSION + 1, 99), "w0", "a" * 32))
        hand.link.send("control", msgpack.packb({"v": 99, "t": "hello", "news": 1}))
        hand.link.send("data", msgpack.packb({"v": 99, "t": "put"}), b"x")
        yield
        assert [(message.code, message.versions) for message in hand.heard()] == [
            ("VERSION", (m.PROTOCOL_VERSION,))
        ] * 2

    bench.play(script())
    assert bench.coordinator.state.roster.workers == {}


@pytest.mark.parametrize("header", [b"", b"\xff" * 50, DOWN.encode(m.Committed(1, 2)), b"\x80" * 1000])
def test_bytes_that_are_no_message_change_nothing(bench: Bench, header: bytes) -> None:
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        before = dataclasses.astuple(bench.coordinator.state.roster.workers["w0"])
        hand.link.send("control", header)
        hand.link.send("data", header, b"payload")
        yield
        assert hand.heard() == []
        assert dataclasses.astuple(bench.coordinator.state.roster.workers["w0"]) == before

    bench.play(script())
    assert sum("was refused" in note for note in bench.view.notes) == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_a_hello_on_a_new_link(bench: Bench, restarted: bool) -> None:
    """Between hello and ready no task comes; the same process keeps what it has, a new one has nothing."""
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        again = bench.hand(boot="b" if restarted else "a")
        again.hello()
        yield
        assert [type(message) for message in again.heard()] == [m.Welcome]
        again.ready(() if restarted else ("train-1-client_1-0",))
        yield
        messages = [message for message in again.heard() if not isinstance(message, m.Welcome)]
        given = [task.task for message in messages for task in message.tasks]
        assert given == (["train-1-client_1-1"] if restarted else [])
        hand.say(m.Heartbeat(None, "idle", 0, 0))
        yield
        assert [message.code for message in hand.heard()] == ["REHELLO"], "the old link leads nowhere"

    bench.play(script())
