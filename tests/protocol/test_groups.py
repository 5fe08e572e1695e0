"""A group of trainings at the coordinator: given whole, judged one by one, done again whole."""

from __future__ import annotations

import pytest
from drive import Drive, dispatched, notes, ready

from fedmq.protocol import events as ev
from fedmq.protocol.jobs import Status
from fedmq.protocol.phases import Progress

CLIENTS = ("client_1", "client_2", "client_3")
A, B = ready("a", *CLIENTS), ready("b", *CLIENTS)
T1, T2, T3 = TASKS = tuple(f"train-1-{client}-0" for client in CLIENTS)
AGAIN = " ".join(f"train-1-{client}-1" for client in CLIENTS)


def training(*workers: ev.WorkerReady, quorum: int = 3, together: int = 3, deadline_s: float | None = None) -> Drive:
    """Round 1 is open: a trains all three clients."""
    drive = Drive(rounds=1, cohort=3, quorum=quorum, expected=3, together=together, deadline_s=deadline_s)
    assert dispatched(drive.opened(*workers, clients=CLIENTS))["a"].split()[0] == T1
    return drive


def refused(task: str) -> ev.TaskFailed:
    return ev.TaskFailed("a", task, "CANCELLED", "")


def test_a_group_is_one_dispatch_and_each_result_counts_by_itself() -> None:
    drive = Drive(rounds=1, cohort=3, expected=3, together=3)
    assert drive.opened(A, B, clients=CLIENTS) == [ev.OpenRound(1, (CLIENTS,)), ev.Dispatch("a", TASKS)]
    assert drive.state.awaited(2.0) == ["a: train client_1, client_2, client_3, for 2 s"]
    drive.say(ev.Heard("a", T1, "working", 3, 9))
    assert drive.state.awaited(2.0) == ["a: train client_1, client_2, client_3, step 3/9, for 2 s"]
    assert drive.stored("a", T2, "d2") == [ev.Reply("a", T2, "ACCEPTED")]
    assert drive.state.awaited(2.0) == ["a: train client_1, client_3, step 3/9, for 2 s"]
    drive.stored("a", T1, "d1")
    assert drive.stored("a", T3, "d3")[-1] == ev.Aggregate(1, CLIENTS)


def test_the_last_group_is_what_is_left() -> None:
    drive = training(A, B, together=2)
    assert drive.state.roster.workers["b"].hand.keys() == {drive.state.roster.of_kind("train")[2].job}


def test_a_worker_lost_between_two_uploads_and_the_group_is_done_again_whole() -> None:
    drive = training(A, B)
    drive.stored("a", T1, "d1")
    commands = drive.say(ev.WorkerGone("a", "crash"))
    assert notes(commands) == "a lost (crash): train client_2, client_3 go to another worker"
    assert dispatched(commands) == {"b": AGAIN}
    assert [s.status for s in drive.state.roster.of_kind("train")] == [Status.DONE, Status.ASSIGNED, Status.ASSIGNED]
    assert drive.say(ev.ResultOffered("b", "train-1-client_1-1", "d1")) == [
        ev.Reply("b", "train-1-client_1-1", "DUPLICATE")
    ]
    drive.stored("b", "train-1-client_2-1", "d2")
    assert drive.stored("b", "train-1-client_3-1", "d3")[-1] == ev.Aggregate(1, CLIENTS)


def test_no_attempt_is_named_twice() -> None:
    """Also of a client that is done already: what two workers make under one name could be mixed up."""
    drive = training(A, B)
    drive.stored("a", T1, "d1")
    assert dispatched(drive.say(ev.WorkerGone("a", "left"))) == {"b": AGAIN}
    drive.say(A)
    assert dispatched(drive.say(ev.WorkerGone("b", "left"))) == {"a": AGAIN.replace("-1 ", "-2 ")[:-1] + "2"}


def test_what_is_done_again_for_nobody_is_stopped() -> None:
    drive = training(A, B)
    drive.stored("a", T1, "d1")
    drive.say(ev.WorkerGone("a", "crash"))
    drive.stored("b", "train-1-client_3-1", "d3")
    drive.say(ready("a", *CLIENTS, outbox=(T2,)))
    assert drive.stored("a", T2, "d2") == [
        ev.Reply("a", T2, "ACCEPTED"),
        ev.CancelTask("b", "train-1-client_2-1", "another worker was first"),
        ev.Aggregate(1, CLIENTS),
        ev.CancelTask("b", "train-1-client_1-1", "nobody waits for it"),
    ]
    for client in ("client_1", "client_2"):
        assert drive.state.roster.workers["b"].hand
        drive.say(ev.TaskFailed("b", f"train-1-{client}-1", "CANCELLED", ""))
    assert not drive.state.roster.workers["b"].hand


def test_one_that_fails_is_done_again_with_the_others_when_they_are_over() -> None:
    drive = training(A, B)
    commands = drive.say(ev.TaskFailed("a", T2, "OOM", "x"))
    assert notes(commands) == "train client_2 failed on a (OOM: x): trying again"
    assert dispatched(commands) == {}, "the others are still at work"
    drive.stored("a", T1, "d1")
    assert dispatched(drive.stored("a", T3, "d3")) == {"b": AGAIN}, "not by whom it failed"


def test_a_trainer_that_crashes_fails_what_it_still_had() -> None:
    drive = training(A)
    drive.stored("a", T1, "d1")
    assert dispatched(drive.say(ev.TaskFailed("a", T2, "CRASHED", ""))) == {}
    assert dispatched(drive.say(ev.TaskFailed("a", T3, "CRASHED", ""))) == {"a": AGAIN}
    assert [state.failures for state in drive.state.roster.of_kind("train")] == [0, 1, 1]


def test_one_that_diverges_is_given_up_at_once_and_the_others_count() -> None:
    """Training is deterministic: it would diverge again."""
    drive = training(A, quorum=2)
    commands = drive.say(ev.TaskFailed("a", T2, "NONFINITE", "the loss is nan"))
    assert notes(commands) == (
        "train client_2 failed on a (NONFINITE: the loss is nan): given up: it would be the same again"
    )
    drive.stored("a", T1, "d1")
    assert drive.stored("a", T3, "d3")[-1] == ev.Aggregate(1, ("client_1", "client_3"))


def test_what_was_given_up_is_trained_for_its_company_and_changes_nothing() -> None:
    drive = training(A, B, quorum=2)
    drive.say(ev.TaskFailed("a", T1, "NONFINITE", ""))
    drive.stored("a", T2, "d2")
    assert dispatched(drive.say(ev.WorkerGone("a", "crash"))) == {"b": AGAIN}
    assert drive.say(ev.TaskFailed("b", "train-1-client_1-1", "NONFINITE", "")) == []
    assert drive.stored("b", "train-1-client_3-1", "d3")[-2:] == [
        ev.Aggregate(1, ("client_2", "client_3")),
        ev.CancelTask("b", "train-1-client_2-1", "nobody waits for it"),
    ]


def test_a_worker_that_comes_back_goes_on_with_what_is_still_its_own() -> None:
    drive = training(A, B)
    drive.stored("a", T1, "d1")
    assert drive.say(ready("a", *CLIENTS, running=(T2, T3))) == []
    drive.stored("a", T2, "d2")
    assert drive.stored("a", T3, "d3")[-1] == ev.Aggregate(1, CLIENTS)


def test_a_worker_that_comes_back_too_late_is_told_for_each_task() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGone("a", "crash"))
    assert drive.say(ready("a", *CLIENTS, running=TASKS, outbox=(T1,))) == [
        ev.Reply("a", T2, "LATE"),
        ev.Reply("a", T3, "LATE"),
    ]
    assert drive.say(ev.ResultOffered("a", T1, "d1")) == [ev.Reply("a", T1, "UPLOAD")], "what is finished is welcome"
    drive.stored("a", T1, "d1")
    drive.say(refused(T2))
    assert drive.state.roster.workers["a"].hand
    drive.say(refused(T3))
    assert not drive.state.roster.workers["a"].hand


def test_finished_updates_of_a_restarted_worker_are_all_waited_for() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGreeted("a", restarted=True))
    drive = training(A)
    drive.say(ev.WorkerGreeted("a", restarted=True))
    assert drive.say(ready("a", *CLIENTS, outbox=(T1, T3))) == []
    drive.stored("a", T1, "d1")
    assert dispatched(drive.stored("a", T3, "d3")) == {"a": AGAIN}, "and only then the rest is made"


def test_a_deadline_stops_each_task_of_a_group() -> None:
    drive = training(A, quorum=1, deadline_s=30.0)
    drive.stored("a", T1, "d1")
    commands = drive.until(30.0, "a")
    assert [c for c in commands if not isinstance(c, ev.Note)] == [
        ev.CancelTask("a", T2, "not there at the deadline of 30 s"),
        ev.CancelTask("a", T3, "not there at the deadline of 30 s"),
        ev.Aggregate(1, ("client_1",)),
    ]


def test_a_resumed_round_keeps_its_groups() -> None:
    """Whatever the config or the workers say by now: what is done already was done in that company."""
    progress = Progress(0, (("client_1", "client_3"), ("client_2",)), (("client_1", "d1"),))
    drive = Drive(rounds=1, cohort=3, expected=3, together=2, progress=progress)
    assert dispatched(drive.say(A)) == {"a": "train-1-client_1-0 train-1-client_3-0"}
    assert dispatched(drive.say(B)) == {"b": T2}


def test_a_group_that_nobody_hosts_whole_any_more_is_parted() -> None:
    drive = training(A, quorum=2)
    drive.say(ev.WorkerGone("a", "leaves"))
    drive.say(ready("b", "client_1", "client_2"))
    assert drive.until(99.0, "b") == []
    assert drive.state.awaited(99.0) == ["any worker that hosts client_1, client_2, client_3, for 95 s"]
    commands = drive.until(110.0, "b")
    assert "no worker hosts client_1, client_2, client_3 together, for 100 s: each goes by itself" in notes(commands)
    assert "train client_3: no worker hosts it, for 100 s" in notes(commands)
    assert dispatched(commands) == {"b": "train-1-client_1-1"}
    drive.stored("b", "train-1-client_1-1", "d1")
    assert drive.stored("b", "train-1-client_2-1", "d2")[-1] == ev.Aggregate(1, ("client_1", "client_2"))
    assert drive.state.roster.gone == {"client_3"}


@pytest.mark.parametrize("together", [1, 2, 3])
def test_more_workers_are_given_more_groups(together: int) -> None:
    drive = Drive(rounds=1, cohort=3, expected=3, together=together)
    given = dispatched(drive.opened(A, B, clients=CLIENTS))
    assert [len(tasks.split()) for tasks in given.values()] == {1: [1, 1], 2: [2, 1], 3: [3]}[together]
