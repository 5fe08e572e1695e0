"""The life of a sync run: event lists against exact command lists, in virtual time."""

from __future__ import annotations

import pytest
from drive import Drive, dispatched, notes, ready, units

from fedmq.errors import LocalProtocolError
from fedmq.protocol import events as ev
from fedmq.protocol.grouping import Size
from fedmq.protocol.phases import PHASES, Phase, Progress


def test_a_whole_run() -> None:
    drive = Drive(rounds=2, cohort=2, expected=2, generates=True)
    a, b = ready("a", "client_1", test=True), ready("b", "client_2")
    assert drive.say(a) == []
    assert drive.say(b) == [ev.Dispatch("a", ("init-0-adapter-0",))]
    assert drive.say(ev.ResultOffered("a", "init-0-adapter-0", "d0")) == [ev.Reply("a", "init-0-adapter-0", "UPLOAD")]
    assert drive.stored("a", "init-0-adapter-0", "d0") == [ev.Reply("a", "init-0-adapter-0", "ACCEPTED")]
    assert drive.say(ev.Committed(0)) == [
        ev.Select(1, ("client_1", "client_2"), 2),
        ev.Dispatch("a", ("evaluate-0-test-0",)),
    ]
    assert drive.say(ev.Selected(1, ("client_1", "client_2"))) == [
        ev.OpenRound(1, (("client_1",), ("client_2",))),
        ev.Dispatch("b", ("train-1-client_2-0",)),
    ]
    assert drive.stored("a", "evaluate-0-test-0") == [
        ev.Reply("a", "evaluate-0-test-0", "ACCEPTED"),
        ev.Dispatch("a", ("train-1-client_1-0",)),
    ]
    assert drive.state.in_use() == {0}, "its texts are to come"
    assert drive.say(ev.Heard("a", "train-1-client_1-0", "working", 3, 9)) == []
    assert drive.say(ev.ResultOffered("b", "train-1-client_2-0", "d2")) == [
        ev.Reply("b", "train-1-client_2-0", "UPLOAD")
    ]
    assert drive.stored("b", "train-1-client_2-0", "d2") == [
        ev.Reply("b", "train-1-client_2-0", "ACCEPTED"),
        # Nothing is left to train: it continues the prompts while the other trains.
        ev.Dispatch("b", ("generate-0-prompts-0",)),
    ]
    assert drive.stored("b", "generate-0-prompts-0") == [ev.Reply("b", "generate-0-prompts-0", "ACCEPTED")]
    assert drive.stored("a", "train-1-client_1-0", "d1") == [
        ev.Reply("a", "train-1-client_1-0", "ACCEPTED"),
        ev.Aggregate(1, ("client_1", "client_2")),
    ]
    assert drive.say(ev.Committed(1)) == [
        ev.Select(2, ("client_1", "client_2"), 2),
        ev.Dispatch("a", ("evaluate-1-test-0",)),
    ]
    assert drive.say(ev.Selected(2, ("client_1", "client_2"))) == [
        ev.OpenRound(2, (("client_1",), ("client_2",))),
        ev.Dispatch("b", ("train-2-client_2-0",)),
    ]
    drive.stored("a", "evaluate-1-test-0")
    drive.stored("b", "train-2-client_2-0", "e2")
    drive.stored("b", "generate-1-prompts-0")
    assert drive.stored("a", "train-2-client_1-0", "e1")[-1] == ev.Aggregate(2, ("client_1", "client_2"))
    assert drive.say(ev.Committed(2)) == [
        ev.Dispatch("a", ("evaluate-2-test-0",)),
        ev.Dispatch("b", ("generate-2-prompts-0",)),
    ]
    assert drive.stored("b", "generate-2-prompts-0") == [ev.Reply("b", "generate-2-prompts-0", "ACCEPTED")]
    assert drive.stored("a", "evaluate-2-test-0") == [
        ev.Reply("a", "evaluate-2-test-0", "ACCEPTED"),
        ev.Finish("done", "all rounds committed"),
    ]
    assert drive.trace == [
        *(Phase.WAITING, Phase.INITIALISING, Phase.SELECTING, Phase.COLLECTING, Phase.AGGREGATING),
        *(Phase.SELECTING, Phase.COLLECTING, Phase.AGGREGATING, Phase.FINISHING, Phase.ENDED),
    ]


def test_a_run_without_rounds_scores_the_base() -> None:
    drive = Drive(rounds=0, cohort=1, expected=1, generates=True)
    drive.say(ready("a", "client_1", test=True))
    drive.stored("a", "init-0-adapter-0", "d0")
    assert drive.say(ev.Committed(0)) == [ev.Dispatch("a", ("evaluate-0-test-0",))]
    assert drive.stored("a", "evaluate-0-test-0")[-1] == ev.Dispatch("a", ("generate-0-prompts-0",))
    assert drive.stored("a", "generate-0-prompts-0")[-1] == ev.Finish("done", "all rounds committed")


def test_nothing_changes_a_run_that_has_ended() -> None:
    drive = Drive()
    assert drive.say(ev.StopAsked("Ctrl-C")) == [ev.Finish("interrupted", "Ctrl-C")]
    for event in (ready("a", "client_1", "client_2"), ev.StopAsked("again"), ev.Tick(), ev.Committed(5)):
        assert drive.say(event) == []
    assert not drive.state.wants("init-0-adapter-0")


def test_a_run_can_be_stopped_in_every_phase() -> None:
    assert all(Phase.ENDED in following for phase, following in PHASES.items() if phase is not Phase.ENDED)


# --- who gets what ---------------------------------------------------------------------------------


def test_the_longest_training_goes_first() -> None:
    sizes = {client: Size(n, 10 * n) for client, n in (("client_1", 5), ("client_2", 50), ("client_3", 20))}
    drive = Drive(cohort=3, expected=3)
    drive.started(ev.WorkerReady("a", sizes), ev.WorkerReady("b", sizes))
    assert dispatched(drive.say(ev.Selected(1, tuple(sizes)))) == {"a": "train-1-client_2-0", "b": "train-1-client_3-0"}
    assert units(drive.stored("b", "train-1-client_3-0", "d")) == ["client_1"]


def test_evaluation_goes_before_training() -> None:
    drive = Drive()
    commands = drive.opened(ready("a", "client_1", "client_2", test=True), clients=("client_1", "client_2"))
    assert dispatched(commands) == {}, "the one worker evaluates version 0 first"
    assert units(drive.stored("a", "evaluate-0-test-0")) == ["client_1"]


def test_evaluation_goes_before_training_also_when_both_wait() -> None:
    _, commands = resumed(Progress(1, (("client_1",), ("client_2",)), (), (1,)), BOTH)
    assert commands == [ev.Dispatch("a", ("evaluate-1-test-0",))]


def test_only_hosts_train_and_only_who_can_evaluates() -> None:
    drive = Drive(cohort=1, expected=2)
    commands = drive.started(ready("a", "client_1"), ready("b", "client_2", held_out=frozenset({"client_2"})))
    assert dispatched(commands) == {"b": "evaluate-0-client_2-0"}, "without a test shard, held-out splits count"
    assert dispatched(drive.say(ev.Selected(1, ("client_2",)))) == {}
    assert dispatched(drive.stored("b", "evaluate-0-client_2-0")) == {"b": "train-1-client_2-0"}


def test_evaluation_runs_while_the_next_round_trains() -> None:
    drive = Drive(rounds=2, cohort=1, expected=1)
    drive.opened(ready("a", "client_1"), ready("b", test=True), clients=("client_1",))
    drive.stored("a", "train-1-client_1-0", "d")
    drive.say(ev.Committed(1))
    assert dispatched(drive.say(ev.Selected(2, ("client_1",)))) == {"a": "train-2-client_1-0"}
    assert dispatched(drive.stored("b", "evaluate-0-test-0")) == {"b": "evaluate-1-test-0"}


# --- the start -------------------------------------------------------------------------------------


def test_nobody_comes() -> None:
    drive = Drive(expected=2)
    assert drive.at(99.9) == []
    (finish,) = drive.at(100.0)
    assert isinstance(finish, ev.Finish) and finish.outcome == "failed"
    assert "2 more clients did not come within 100 s" in finish.reason and "none" in finish.reason


def test_some_are_missing_but_a_cohort_is_there() -> None:
    drive = Drive(cohort=2, expected=3)
    drive.say(ready("a", "client_1", "client_2"))
    assert drive.until(99.0, "a") == []
    commands = drive.until(100.0, "a")
    assert notes(commands) == "1 more client did not come within 100 s: starting without"
    assert dispatched(commands) == {"a": "init-0-adapter-0"}


def test_too_few_are_there() -> None:
    drive = Drive(cohort=2, expected=3, named=("client_1", "client_2", "client_3"))
    drive.say(ready("a", "client_1"))
    finish = drive.until(100.0, "a")[-1]
    assert isinstance(finish, ev.Finish) and finish.outcome == "failed"
    assert "client_2, client_3 did not come" in finish.reason and "workers connected: a" in finish.reason


def test_the_run_waits_for_the_clients_that_it_knows_by_name() -> None:
    drive = Drive(cohort=1, expected=2, named=("client_1", "client_2"))
    assert drive.say(ready("a", "client_1", "client_9")) == []
    assert drive.state.missing() == ["client_2"]
    assert dispatched(drive.say(ready("b", "client_2"))) == {"a": "init-0-adapter-0"}


def test_no_first_adapter() -> None:
    drive = Drive()
    drive.say(ready("a", "client_1", "client_2"))
    assert dispatched(drive.say(ev.TaskFailed("a", "init-0-adapter-0", "MODEL", "no"))) == {"a": "init-0-adapter-1"}
    finish = drive.say(ev.TaskFailed("a", "init-0-adapter-1", "MODEL", "no such base"))[-1]
    assert finish == ev.Finish("failed", "no first adapter: MODEL: no such base")


# --- going on with an earlier run ------------------------------------------------------------------


def resumed(progress: Progress, *workers: ev.WorkerReady, rounds: int = 3) -> tuple[Drive, list[ev.Command]]:
    drive = Drive(rounds=rounds, cohort=2, expected=2, progress=progress)
    return drive, [c for worker in workers for c in drive.say(worker)]


BOTH = ready("a", "client_1", "client_2", test=True)


def test_resume_with_no_round_open() -> None:
    _, commands = resumed(Progress(version=1), BOTH)
    assert commands == [ev.Select(2, ("client_1", "client_2"), 2)]


def test_resume_with_a_round_open() -> None:
    progress = Progress(1, (("client_1",), ("client_2",)), (("client_1", "d1"),))
    drive, commands = resumed(progress, BOTH)
    assert commands == [ev.Dispatch("a", ("train-2-client_2-0",))], "what is durable is not trained again"
    assert drive.say(ev.ResultOffered("a", "train-2-client_1-0", "d1")) == [
        ev.Reply("a", "train-2-client_1-0", "DUPLICATE")
    ]
    assert drive.stored("a", "train-2-client_2-0", "d2")[-1] == ev.Aggregate(2, ("client_1", "client_2"))


def test_resume_with_every_update_there() -> None:
    progress = Progress(1, (("client_1",), ("client_2",)), (("client_1", "d1"), ("client_2", "d2")))
    drive, commands = resumed(progress, BOTH)
    assert dispatched(commands) == {}
    assert drive.at(0.1) == [ev.Aggregate(2, ("client_1", "client_2"))]


def test_resume_with_only_an_evaluation_missing() -> None:
    drive, commands = resumed(Progress(version=3, unevaluated=(3,)), BOTH)
    assert commands == [ev.Dispatch("a", ("evaluate-3-test-0",))]
    assert drive.stored("a", "evaluate-3-test-0")[-1] == ev.Finish("done", "all rounds committed")


def test_resume_evaluates_older_versions_too() -> None:
    _, commands = resumed(Progress(version=2, unevaluated=(1, 2)), BOTH)
    assert commands == [ev.Select(3, ("client_1", "client_2"), 2), ev.Dispatch("a", ("evaluate-1-test-0",))]


# --- our own mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [ev.Selected(2, ("client_1",)), ev.Committed(3)])
def test_an_answer_to_another_question_is_our_bug(event: ev.Event) -> None:
    drive = Drive()
    drive.started(ready("a", "client_1", "client_2"))
    with pytest.raises(LocalProtocolError, match="while round 1 is open"):
        drive.say(event)


def test_an_answer_out_of_turn_is_our_bug() -> None:
    drive = Drive()
    drive.opened(ready("a", "client_1", "client_2"), clients=("client_1", "client_2"))
    with pytest.raises(LocalProtocolError, match="version 1 committed while round 1 is open"):
        drive.say(ev.Committed(1))
