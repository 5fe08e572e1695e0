"""What must not hurt: two workers of one name, floods, uploads that nobody wants any more, words of last week."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conducting import UP, Bench, Script, task_in, training, update_of, verdicts
from serving import adapter, offer, started

from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.policy import Timers
from fedmq.runtime import server as server_module
from fedmq.runtime.intake import Intake
from fedmq.runtime.local import LocalWorkers
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.base import Notice, Received
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport


def test_of_two_live_workers_with_one_name_the_older_is_told_and_the_newer_stays(bench: Bench) -> None:
    older, newer = bench.hand(boot="a"), bench.hand(boot="b")

    def script() -> Script:
        for hand in (older, newer):
            hand.hello()
            yield
            assert [type(message) for message in hand.heard()] == [m.Welcome]
            hand.say(m.Heartbeat(None, "preparing", 0, 0))
            yield
            assert [type(message) for message in hand.heard()] == [m.HeartbeatAck]
        older.hello()
        yield
        (refusal,) = older.heard()
        assert (refusal.code, "--name" in refusal.text) == ("NAME_TAKEN", True)
        newer.say(m.Heartbeat(None, "preparing", 0, 0))
        yield
        assert [type(message) for message in newer.heard()] == [m.HeartbeatAck]

    bench.play(script())


def test_the_hello_of_a_dead_process_that_is_read_after_its_successor_s_harms_nobody(bench: Bench) -> None:
    killed, successor = bench.hand(boot="a"), bench.hand(boot="b")

    def script() -> Script:
        for hand in (successor, killed, successor):
            hand.hello()
            yield
            assert [type(message) for message in hand.heard()] == [m.Welcome]

    bench.play(script())


def test_a_worker_whose_link_is_closed_is_lost_at_once_and_may_come_back(bench: Bench) -> None:
    hand = bench.hand()
    bench.coordinator.state.timers = Timers(heartbeat_s=0.0)  # any silence is one: the link is tried at every turn

    def script() -> Script:
        yield from training(hand)
        yield
        assert m.HeartbeatAck(0) in hand.heard()
        hand.link.rebuild()
        while "lost" not in bench.view.notes[-1]:
            yield
        assert bench.view.notes[-1] == "w0 lost (its link is closed): train client_1 goes to another worker"
        hand.ready((hand.task.task,))  # type: ignore[attr-defined]
        yield
        update, content = update_of(hand)
        hand.say(update)
        yield
        hand.put(update, content)
        yield

    bench.play(script())
    assert bench.server.journal.last_committed() == 1


def test_a_flood_of_junk_is_read_three_times_and_noted_ever_more_rarely(bench: Bench) -> None:
    def script() -> Script:
        for hand in [bench.hand() for _ in range(3)]:
            for _ in range(20):
                assert hand.link.send("control", b"junk")
            yield

    bench.play(script())
    assert len([note for note in bench.view.notes if "was refused: MALFORMED" in note]) == 4, "at 1, 2, 4 and 8"
    assert len([note for note in bench.view.notes if "not listened to" in note]) == 2, "at 1 and 2"


def test_uploads_of_a_round_that_is_over_leave_nothing(tmp_path: Path) -> None:
    server = started(tmp_path)
    intake = Intake(MemoryCoordinatorTransport(), server)
    contents = {round: raw.encode(adapter(round)) for round in (1, 2)}
    for round, content in contents.items():
        update = offer(f"train-{round}-client_0-0", content)
        intake.offered("w", update)
        assert intake.expect("w", update.task) is None
    fds = len(os.listdir("/proc/self/fd"))
    intake.forget_before(2)
    assert len(os.listdir("/proc/self/fd")) == fds - 1
    (left,) = server.blobs.folder.glob("*.part")
    assert left.name.startswith(offer("train-2-client_0-0", contents[2]).blob.digest)
    intake.close()


def test_a_commit_ends_the_uploads_of_its_round(bench: Bench) -> None:
    hand, other = bench.hand(), bench.hand("w1", boot="b")

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        different = raw.encode(adapter(9))
        other.ready()
        yield
        other.say(offer(update.task, different, nonce=update.nonce))
        hand.say(update)
        yield
        assert verdicts(other.heard()) == verdicts(hand.heard()) == ["UPLOAD"]
        assert len(list(bench.server.blobs.folder.glob("*.part"))) == 2
        hand.put(update, content)
        yield

    bench.play(script())
    assert bench.server.journal.last_committed() == 1
    assert list(bench.server.blobs.folder.glob("*.part")) == []


def test_a_revoked_worker_is_told_and_what_it_was_asked_for_is_not_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, notices, receive = bench.hand(), [Notice("stranger", "", "somebody knocked")], bench.listener.receive

    def with_notices(timeout_s: float, fds: Sequence[int] = ()) -> Received:
        told = tuple(notices)
        notices.clear()
        return receive(timeout_s, fds)._replace(notices=told)

    monkeypatch.setattr(bench.listener, "receive", with_notices)

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        hand.say(update)
        yield
        assert verdicts(hand.heard()) == ["UPLOAD"]
        notices.append(Notice("revoked", "w0", "the key of w0 was revoked"))
        yield
        yield
        assert [(r.code, r.text) for r in hand.heard()] == [("REVOKED", "the key of w0 was revoked")]
        hand.put(update, content)
        yield

    bench.play(script())
    assert list(bench.server.journal.updates(1)) == []
    assert "somebody knocked" in bench.view.notes
    assert any("LATE: bytes that nobody asks for" in note for note in bench.view.notes)


def test_updates_kept_decoded_and_updates_read_again_fold_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for kept, nbytes in (("kept", 1 << 24), ("read", 0)):
        monkeypatch.setattr(server_module, "MAX_DECODED_NBYTES", nbytes)
        server = started(tmp_path / kept)
        server.open_round(1, [["client_0"], ["client_1"]])
        for k in range(2):
            content = raw.encode(adapter(k + 1))
            update = offer(f"train-1-client_{k}-0", content, num_examples=10 + k)
            server.blobs.add(content)
            server.accept(update, "w", len(content), server.check(update, content).norm)
        assert len(server._decoded) == (2 if nbytes else 0)
        server.aggregate(1, ["client_0", "client_1"])
        assert server._decoded == {}
        digests.append(server.journal.digest(1))
    assert digests[0] == digests[1]


def test_last_words_are_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "worker_0.log").write_text("fedmq: an error of last week\n")
    group = LocalWorkers("tcp://127.0.0.1:1", 1, tmp_path / "work", logs, "cpu", None, None)
    group.start()
    for _ in range(4):  # the first, and as many restarts as there are
        (slot,) = group._slots
        assert slot.process is not None
        slot.process.wait(60)
        failure = group.failure()
    assert failure is not None and "last week" not in failure


def test_an_offer_that_cannot_be_read_does_not_keep_a_worker_from_starting(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    (outbox / "train-1-client_0-0.offer").write_bytes(b"of another version")
    options = WorkerOptions("w", (), "cpu", tmp_path, tmp_path / "log", None, 1)
    agent = WorkerAgent(options, MemoryWorkerTransport(MemoryCoordinatorTransport()))
    assert agent.state.outbox == {} and not list(outbox.glob("*.offer"))


def test_a_worker_of_which_a_message_was_damaged_is_to_say_hello_again(bench: Bench) -> None:
    """What it should have said is lost; hello and ready tell it once more."""
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        assert hand.link.send("control", UP.encode(update)[:-1] + b"!")
        yield
        hand.say(m.Heartbeat(update.task, "uploading", 0, 0))
        yield
        assert [message.code for message in hand.heard()] == ["REHELLO"]
        hand.ready((update.task,), update.task)
        hand.say(update)
        yield
        assert verdicts(hand.heard()) == ["UPLOAD"]
        hand.put(update, content)
        yield

    bench.play(script())
    assert bench.server.journal.last_committed() == 1


def test_an_update_whose_bytes_are_wrong_twice_is_refused_and_made_again(bench: Bench) -> None:
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        hand.say(update)
        yield
        hand.heard()
        for _ in range(2):
            hand.put(update, bytes(len(content)))
        yield
        messages = hand.heard()
        assert verdicts(messages) == ["INVALID"]
        hand.task = task_in(messages)  # type: ignore[attr-defined]
        assert hand.task.task == "train-1-client_1-1"  # type: ignore[attr-defined]

    bench.play(script())
    assert any("digest" in note and "trying again" in note for note in bench.view.notes)
