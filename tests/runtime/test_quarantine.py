"""A worker that broke the rules three times: told, dropped, refused for the rest of the run; its task goes on."""

from __future__ import annotations

import time

from conducting import SPEC, UP, Bench, Hand, Script, finishing, task_in, training, update_of

from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.coordinator import Coordinator

FORGED = m.TaskFailed("train-1-client_1-0", "00" * 16, "ERROR", "text")


def codes(hand: Hand) -> list[str]:
    return [message.code for message in hand.heard() if isinstance(message, m.Reject)]


def test_its_task_goes_to_another_and_it_does_not_come_back(bench: Bench) -> None:
    bad, other = bench.hand("bad"), bench.hand("w1", boot="b")

    def script() -> Script:
        yield from training(bad)
        other.ready()
        yield
        other.heard()
        bad.say(FORGED, FORGED)
        yield
        assert codes(bad) == []
        bad.say(FORGED)
        yield
        assert codes(bad) == ["QUARANTINED"]
        other.task = task_in(other.heard())  # type: ignore[attr-defined]
        for hand in (bad, bench.hand("bad", boot="c")):
            hand.ready()
            yield
            assert codes(hand) == ["QUARANTINED", "REHELLO"]
        yield from finishing(other)

    bench.play(script())
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w1"]
    assert len([note for note in bench.view.notes if "bad is quarantined for this run: NONCE" in note]) == 1
    assert any("bad lost (it is quarantined)" in note for note in bench.view.notes)


def test_a_resumed_run_refuses_it_too(bench: Bench) -> None:
    bad = bench.hand("bad")

    def script() -> Script:
        bad.hello()
        bad.say(FORGED, FORGED, FORGED)
        yield

    bench.play(script())
    state = CoordinatorState(RoundPolicy(1, 1, 1), Timers(), expected=1, generates=False, started_at=time.monotonic())
    again = Coordinator(state, bench.server, bench.listener, SPEC, bench.view)
    bad.heard()
    bad.hello()
    again.turn()
    assert codes(bad) == ["QUARANTINED"]


def test_by_its_key_it_is_known_on_both_planes_and_under_any_name(bench: Bench) -> None:
    bad = bench.hand("bad")
    hello = UP.encode(m.Hello((m.PROTOCOL_VERSION,), "better", "c" * 32))

    def script() -> Script:
        for _ in range(3):
            bad.inject(b"junk", b"", plane="data", owner="bad")
        yield
        bad.inject(hello, owner="bad")
        bad.inject(b"junk", owner="bad")
        yield
        assert codes(bad) == ["QUARANTINED"] * 2
        read = bench.view.notes.copy()
        bad.inject(b"junk", b"", plane="data", owner="bad")
        yield
        assert bench.view.notes == read

    bench.play(script())


def test_what_counted_already_stays_and_what_was_granted_does_not(bench: Bench) -> None:
    bad = bench.hand("bad")

    def script() -> Script:
        yield from training(bad)
        update, content = update_of(bad)
        bad.say(update)
        yield
        bad.say(FORGED, FORGED, FORGED)
        yield
        bad.put(update, content)
        yield

    bench.play(script())
    assert bench.server.journal.last_committed() == 0 and bench.server.journal.updates() == []


def test_a_task_of_lies_is_a_failed_attempt_and_a_strike(bench: Bench) -> None:
    bad = bench.hand("bad")

    def script() -> Script:
        yield from training(bad)
        yield from finishing(bad, num_examples=10**6)
        (verdict,) = [reply for reply in bad.said if isinstance(reply, m.Verdict)]  # type: ignore[attr-defined]
        assert verdict.text.startswith("EXAMPLES: 1000000 examples of a client that announced 10")
        assert bench.coordinator._reception.guard._strikes.of("bad").codes == "EXAMPLES"

    bench.play(script())


def test_the_same_data_is_not_more_on_another_day(bench: Bench) -> None:
    """Else a worker would announce a million examples when it said hello again."""
    hand = bench.hand()

    def script() -> Script:
        hand.ready()
        yield
        hand.heard()
        client = m.HostedClient("client_1", 10**6, 100, 0, "ab" * 32)
        hand.say(m.Ready((client,), False, "cd" * 32, 1, 2, "cpu", (), ()))
        yield
        (refusal,) = [message for message in hand.heard() if isinstance(message, m.Reject)]
        assert (refusal.code, refusal.text) == ("DATA", "client_1 had 10 examples, and now 1000000")

    bench.play(script())


def test_a_flood_over_the_wire_is_not_answered(bench: Bench) -> None:
    bad, honest = bench.hand("bad", boot="b"), bench.hand()

    def script() -> Script:
        yield from training(honest)
        bad.hello()
        yield
        bad.heard()
        bad.say(*[m.Heartbeat(None, "idle", 0, 0)] * 5000)
        yield
        assert 150 < len(bad.heard()) < 1000
        yield from finishing(honest)

    bench.play(script())
    assert bench.server.journal.last_committed() == 1
