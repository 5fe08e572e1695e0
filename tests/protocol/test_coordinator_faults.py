"""What becomes of a round when workers fail, fall silent, leave, come back, or answer what nobody asked."""

from __future__ import annotations

import pytest
from drive import Drive, dispatched, notes, ready

from fedmq.protocol import events as ev
from fedmq.protocol.jobs import Job
from fedmq.protocol.phases import Phase

CLIENTS = ("client_1", "client_2")
A, B, C = (ready(name, *CLIENTS) for name in "abc")
#: with a client each: whoever is drawn, it is clear who trains whom
A1, B2 = ready("a", "client_1"), ready("b", "client_2")
TRAIN_1, TRAIN_2 = "train-1-client_1-0", "train-1-client_2-0"


def training(*workers: ev.WorkerReady, quorum: int = 2, deadline_s: float | None = None, **options: float) -> Drive:
    """Round 1 is open: a trains client_1, b (if it is there) client_2."""
    drive = Drive(rounds=1, quorum=quorum, deadline_s=deadline_s, **options)
    drive.opened(*workers, clients=CLIENTS)
    return drive


# --- a worker that is lost -------------------------------------------------------------------------


def test_the_task_of_a_lost_worker_goes_to_another() -> None:
    drive = training(A, B)
    assert drive.say(C) == []
    assert drive.say(ev.WorkerGone("a", "goodbye")) == [
        ev.Evict("a"),
        ev.Note("warning", "a lost (goodbye): train client_1 goes to another worker"),
        ev.Dispatch("c", ("train-1-client_1-1",)),
    ]


def test_the_task_waits_when_nobody_else_can() -> None:
    drive = training(ready("a", "client_1"), ready("b", "client_2"))
    assert dispatched(drive.say(ev.WorkerGone("a", "goodbye"))) == {}
    assert dispatched(drive.say(ready("c", "client_1"))) == {"c": "train-1-client_1-1"}


def test_losing_a_worker_is_not_its_tasks_fault() -> None:
    drive = training(A)
    for attempt in range(1, 6):
        drive.say(ev.WorkerGone("a", "crash"))
        assert dispatched(drive.say(A)) == {"a": f"train-1-client_1-{attempt}"}


def test_silence_makes_suspect_then_dead() -> None:
    drive = training(A, B)
    drive.say(C)
    assert drive.until(4.0, "a", "b", "c") == []
    # a was last heard at 4: suspect at 9, dead at 19.
    assert notes(drive.until(9.0, "b", "c")) == "a has been silent for 5 s"
    assert drive.state.roster.workers["a"].hand, "it keeps its task"
    commands = drive.until(19.0, "b", "c")
    assert notes(commands) == "a lost (no sign of life for 15 s): train client_1 goes to another worker"
    assert dispatched(commands) == {"c": "train-1-client_1-1"}


def test_a_suspect_gets_nothing_until_it_is_heard() -> None:
    drive = Drive(rounds=1)
    drive.started(A, B)
    drive.until(8.0, "b")
    assert dispatched(drive.say(ev.Selected(1, CLIENTS))) == {"b": TRAIN_1}
    assert drive.alive("a") == [ev.Note("info", "a is back"), ev.Dispatch("a", (TRAIN_2,))]


def test_time_that_stands_still_kills_nobody() -> None:
    drive = training(A, B)
    drive.until(100.0, "a", "b")
    drive.now = 50.0
    assert drive.say(ev.Tick()) == []


# --- a worker that comes back ----------------------------------------------------------------------


def test_a_worker_that_still_trains_keeps_its_task() -> None:
    drive = training(A, B)
    assert drive.say(ready("a", *CLIENTS, running=(TRAIN_1,))) == []
    assert drive.stored("a", TRAIN_1, "d1") == [ev.Reply("a", TRAIN_1, "ACCEPTED")]


def test_a_finished_update_is_waited_for_and_not_trained_again() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGone("a", "its link is closed"))
    assert drive.say(ready("a", *CLIENTS, outbox=(TRAIN_1,))) == []
    assert drive.say(ev.ResultOffered("a", TRAIN_1, "d1")) == [ev.Reply("a", TRAIN_1, "UPLOAD")]


def test_a_task_that_another_has_by_now_is_stopped_and_the_worker_free_when_it_has() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGone("a", "crash"))
    drive.say(C)
    assert drive.say(ready("a", *CLIENTS, running=(TRAIN_1,))) == [ev.Reply("a", TRAIN_1, "LATE")]
    drive.say(ev.WorkerGone("b", "crash"))
    assert drive.state.roster.workers["a"].hand, "it is given nothing while it stops"
    assert dispatched(drive.say(ev.TaskFailed("a", TRAIN_1, "CANCELLED", ""))) == {"a": "train-1-client_2-1"}


def test_a_worker_told_to_stop_that_has_finished_instead_is_free() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGone("a", "crash"))
    drive.say(C)
    drive.say(ready("a", *CLIENTS, running=(TRAIN_1,)))
    drive.stored("c", "train-1-client_1-1", "d1")
    drive.say(ev.WorkerGone("c", "leaves"))
    drive.say(ev.WorkerGone("b", "leaves"))
    commands = drive.say(ev.ResultOffered("a", TRAIN_1, "d1"))
    assert commands == [ev.Reply("a", TRAIN_1, "DUPLICATE"), ev.Dispatch("a", ("train-1-client_2-1",))]


def test_between_hello_and_ready_a_worker_gets_nothing() -> None:
    drive = training(A, B)
    drive.say(C)
    assert drive.say(ev.WorkerGreeted("c", restarted=False)) == []
    assert dispatched(drive.say(ev.WorkerGone("a", "crash"))) == {}
    assert dispatched(drive.say(C)) == {"c": "train-1-client_1-1"}


def test_a_restarted_worker_has_nothing_and_keeps_its_new_link() -> None:
    drive = training(A, B)
    assert drive.say(ev.WorkerGreeted("a", restarted=True)) == [
        ev.Note("warning", "a lost (it was restarted): train client_1 goes to another worker")
    ]
    assert drive.say(ev.WorkerGreeted("z", restarted=True)) == [], "nobody knows it yet"
    assert dispatched(drive.say(A)) == {"a": "train-1-client_1-1"}


def test_a_task_of_an_earlier_round_is_stopped() -> None:
    drive = training(A)
    assert drive.say(ready("b", *CLIENTS, running=("train-0-client_1-0",))) == [
        ev.Reply("b", "train-0-client_1-0", "LATE")
    ]
    assert dispatched(drive.say(ev.TaskFailed("b", "train-0-client_1-0", "CANCELLED", ""))) == {"b": TRAIN_2}


# --- a task that fails -----------------------------------------------------------------------------


def test_a_failed_task_goes_to_another_worker_if_there_is_one() -> None:
    drive = training(A, B)
    drive.say(C)
    assert drive.say(ev.TaskFailed("a", TRAIN_1, "OOM", "out of memory")) == [
        ev.Note("warning", "train client_1 failed on a (OOM: out of memory): trying again"),
        ev.Dispatch("c", ("train-1-client_1-1",)),
    ]
    assert not drive.state.roster.workers["a"].hand


def test_a_failed_task_comes_back_to_its_worker_when_there_is_no_other() -> None:
    drive = training(A)
    assert dispatched(drive.say(ev.TaskFailed("a", TRAIN_1, "OOM", ""))) == {"a": "train-1-client_1-1"}


@pytest.mark.parametrize("quorum", [1, 2])
def test_a_task_that_fails_twice_is_given_up(quorum: int) -> None:
    drive = training(A, quorum=quorum)
    drive.say(ev.TaskFailed("a", TRAIN_1, "OOM", "x"))
    commands = drive.say(ev.TaskFailed("a", "train-1-client_1-1", "OOM", "y"))
    assert notes(commands) == "train client_1 failed on a (OOM: y): given up after 2 failures"
    assert dispatched(commands) == {"a": TRAIN_2}
    last = drive.stored("a", TRAIN_2, "d2")[-1]
    if quorum == 1:
        assert last == ev.Aggregate(1, ("client_2",))
    else:
        reason = "round 1: 1 of 2 updates, the quorum is 2 (client_1: OOM: y)"
        assert last == ev.Finish("failed", reason)


def test_a_failure_of_somebody_elses_task_counts_for_nothing() -> None:
    drive = training(A, B)
    for task in (TRAIN_1, "train-1-client_1-7", "train-9-client_1-0", "evaluate-0-test-0"):
        assert drive.say(ev.TaskFailed("b", task, "OOM", "")) == []
    assert all(state.failures == 0 for state in drive.state.roster.jobs.values())


# --- results that come late, twice, or unasked -----------------------------------------------------


def test_the_first_result_counts_and_the_other_worker_is_stopped() -> None:
    drive = training(A, B)
    drive.say(ev.WorkerGone("a", "crash"))
    drive.say(C)
    drive.say(ready("a", *CLIENTS, outbox=(TRAIN_1,)))
    assert drive.say(ev.ResultOffered("a", TRAIN_1, "d1")) == [ev.Reply("a", TRAIN_1, "UPLOAD")]
    assert drive.stored("a", TRAIN_1, "d1") == [
        ev.Reply("a", TRAIN_1, "ACCEPTED"),
        ev.CancelTask("c", "train-1-client_1-1", "another worker was first"),
    ]
    assert drive.stored("c", "train-1-client_1-1", "d1") == [ev.Reply("c", "train-1-client_1-1", "DUPLICATE")]
    assert not drive.state.roster.workers["c"].hand


def test_verdicts_on_offers() -> None:
    drive = training(A, B)
    drive.stored("a", TRAIN_1, "d1")
    verdicts = {
        (TRAIN_1, "d1"): "DUPLICATE",
        (TRAIN_1, "other"): "LATE",
        (TRAIN_2, "d2"): "UPLOAD",
        ("train-0-client_1-0", "d"): "LATE",
        ("train-1-client_9-0", "d"): "LATE",
        ("train-2-client_1-0", "d"): "UNKNOWN_TASK",
        ("evaluate-1-test-0", "d"): "UNKNOWN_TASK",
    }
    for (task, digest), code in verdicts.items():
        assert drive.say(ev.ResultOffered("a", task, digest)) == [ev.Reply("a", task, code)], (task, digest)


def test_a_late_result_of_a_client_given_up_is_still_welcome_while_the_round_is_open() -> None:
    drive = training(A, B, quorum=1)
    drive.say(ev.TaskFailed("a", TRAIN_1, "OOM", ""))
    drive.say(ev.TaskFailed("a", "train-1-client_1-1", "OOM", ""))
    assert drive.state.wants(TRAIN_1)
    drive.stored("c", TRAIN_1, "d1")
    assert drive.stored("b", TRAIN_2, "d2")[-1] == ev.Aggregate(1, CLIENTS)
    assert not drive.state.wants(TRAIN_1)


# --- deadlines, and clients without a host ---------------------------------------------------------


def test_a_deadline_closes_the_round_with_its_quorum() -> None:
    drive = training(A1, B2, quorum=1, deadline_s=30.0)
    drive.stored("a", TRAIN_1, "d1")
    assert drive.until(29.0, "a", "b") == []
    assert drive.until(30.0, "a", "b") == [
        ev.Note("warning", "train client_2: not there at the deadline of 30 s"),
        ev.CancelTask("b", TRAIN_2, "not there at the deadline of 30 s"),
        ev.Aggregate(1, ("client_1",)),
    ]
    assert drive.state.phase is Phase.AGGREGATING
    assert drive.say(ev.ResultOffered("b", TRAIN_2, "d2")) == [ev.Reply("b", TRAIN_2, "LATE")]


def test_a_round_without_its_quorum_at_the_deadline_is_abandoned_and_drawn_anew() -> None:
    drive = training(A1, B2, quorum=2, deadline_s=30.0)
    drive.stored("a", TRAIN_1, "d1")
    *_, note, select = drive.until(30.0, "a", "b")
    assert select == ev.Select(1, CLIENTS, 2, draw=1) and drive.state.version == 0
    assert note == ev.Note(
        "warning", "round 1: 1 of 2 updates, the quorum is 2: abandoned, clients are drawn anew (time 1)"
    )
    drive.say(ev.TaskFailed("b", TRAIN_2, "CANCELLED", ""))
    # What was accepted of a client that is drawn again counts: its update would be the same.
    again = drive.say(ev.Selected(1, CLIENTS))
    assert ev.OpenRound(1, (("client_1",), ("client_2",))) in again
    assert dispatched(again) == {"b": TRAIN_2}
    assert drive.stored("b", TRAIN_2, "d2")[-1] == ev.Aggregate(1, CLIENTS)


def test_a_round_that_is_abandoned_too_often_fails_the_run() -> None:
    drive = training(A, B, quorum=2, deadline_s=30.0)
    drive.stored("a", TRAIN_1, "d1")
    for time in (30.0, 60.0):
        assert isinstance(drive.until(time, "a", "b")[-1], ev.Select)
        drive.say(ev.TaskFailed("b", TRAIN_2, "CANCELLED", ""))
        drive.say(ev.Selected(1, CLIENTS))
    finish = drive.until(90.0, "a", "b")[-1]
    assert isinstance(finish, ev.Finish) and finish.outcome == "failed"
    assert "1 of 2 updates, the quorum is 2" in finish.reason


def test_with_over_selection_the_round_closes_when_it_is_full() -> None:
    drive = Drive(cohort=1, over_selection=1.5, expected=2)
    assert ev.Select(1, CLIENTS, 2) in drive.started(A1, B2)
    drive.say(ev.Selected(1, CLIENTS))
    closing = drive.stored("b", TRAIN_2, "d2")
    assert ev.CancelTask("a", TRAIN_1, "the round is full") in closing
    assert ev.Note("info", "train client_1: the round is full") in closing
    assert closing[-1] == ev.Aggregate(1, ("client_2",))


def test_an_automatic_deadline_follows_from_the_rounds_before() -> None:
    drive = Drive(rounds=9, quorum=1, automatic_deadline=True)
    drive.opened(A, B, clients=CLIENTS)
    for round in (1, 2, 3):
        assert drive.state.clock.deadline_s() is None
        drive.until(drive.now + 10.0 * round, "a", "b")
        for worker, client in (("a", "client_1"), ("b", "client_2")):
            drive.stored(worker, f"train-{round}-{client}-0", "d")
        drive.say(ev.Committed(round))
        drive.say(ev.Selected(round + 1, CLIENTS))
    # Rounds of 10, 20 and 30 s: median 20, median absolute deviation 10.
    assert drive.state.clock.deadline_s() == pytest.approx(80.0)


def test_a_training_that_stalls_is_stopped_and_goes_to_another_worker() -> None:
    drive = training(A, ready("b", "client_1", "client_2"), stall_s=40.0)
    working = ev.Heard("a", TRAIN_1, "working", 3, 9)
    drive.say(working)
    for _ in range(39):
        drive.now += 1.0
        commands = drive.say(working, ev.Heard("b"), ev.Tick())
        assert not any(isinstance(command, ev.CancelTask) for command in commands)
    assert "a: train client_1, step 3/9, for 39 s, no progress for 39 s" in drive.state.awaited(drive.now)
    drive.now += 1.0
    commands = drive.say(working, ev.Heard("b"), ev.Tick())
    text = "no progress for 40 s at step 3 of 9"
    assert ev.CancelTask("a", TRAIN_1, text) in commands
    assert ev.Note("warning", f"train client_1 failed on a (STALLED: {text}): trying again") in commands
    drive.stored("b", TRAIN_2, "d2")
    assert drive.state.roster.jobs[Job("train", 1, "client_1")].worker == "b"


def test_long_steps_and_slow_transfers_are_no_stall() -> None:
    drive = training(A, B, stall_s=40.0)
    for step in range(3):  # 30 s each: 300 s are allowed from the second on
        for _ in range(30):
            drive.now += 1.0
            drive.say(ev.Heard("a", TRAIN_1, "working", step, 9), ev.Heard("b", TRAIN_2, "fetching", 0, 0))
    for _ in range(100):
        drive.now += 1.0
        commands = drive.say(
            ev.Heard("a", TRAIN_1, "working", 2, 9), ev.Heard("b", TRAIN_2, "fetching", 0, 0), ev.Tick()
        )
        assert not any(isinstance(command, ev.CancelTask) for command in commands)


def test_a_draining_worker_gets_nothing() -> None:
    drive = Drive(rounds=2, quorum=1, deadline_s=30.0)
    drive.opened(A1, B2, clients=CLIENTS)
    drive.stored("a", TRAIN_1, "d1")
    drive.until(30.0, "a", "b")
    drive.say(ev.Committed(1))
    assert dispatched(drive.say(ev.Selected(2, CLIENTS))) == {"a": "train-2-client_1-0"}
    assert dispatched(drive.say(ev.TaskFailed("b", TRAIN_2, "CANCELLED", ""))) == {"b": "train-2-client_2-0"}


def test_a_client_without_a_host_is_given_up_and_not_selected_again() -> None:
    drive = Drive(rounds=2, cohort=2, quorum=1, expected=3)
    drive.opened(A, ready("b", "client_3"), clients=("client_1", "client_3"))
    drive.say(ev.WorkerGone("b", "leaves"))
    drive.stored("a", TRAIN_1, "d1")
    commands = drive.until(99.0, "a")
    assert commands == []
    assert drive.state.awaited(99.0) == ["any worker that hosts client_3, for 95 s"]
    commands = drive.until(110.0, "a")
    text = "train client_3: no worker hosts it, for 100 s"
    assert commands == [ev.LeaveOut("client_3"), ev.Note("warning", text), ev.Aggregate(1, ("client_1",))]
    assert drive.say(ev.Committed(1)) == [ev.Select(2, CLIENTS, 2)]
    drive.say(ready("c", "client_3"))
    assert "client_3" not in drive.state.roster.gone, "its host is back"


def test_too_few_clients_are_left() -> None:
    drive = Drive(rounds=2, cohort=2, quorum=1, expected=2)
    drive.opened(ready("a", "client_1"), ready("b", "client_2"), clients=CLIENTS)
    drive.say(ev.WorkerGone("b", "leaves"))
    drive.stored("a", TRAIN_1, "d1")
    drive.until(110.0, "a")
    finish = drive.say(ev.Committed(1))[-1]
    assert finish == ev.Finish("failed", "round 2 needs 2 clients, 1 are left (no worker hosts client_2)")


def test_who_is_awaited_is_said() -> None:
    drive = training(A, B)
    drive.say(ev.Heard("a", TRAIN_1, "working", 3, 9))
    drive.until(8.0, "b")
    assert drive.state.awaited(8.0) == [
        "a: train client_1, step 3/9, for 8 s, silent for 8 s",
        "b: train client_2, for 8 s",
    ]
