"""Asynchronous runs: a buffer makes a version, trainings outlive rounds; event lists against commands."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from drive import Drive, dispatched, notes, ready

from fedmq.protocol import events as ev
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Phase, Progress
from fedmq.protocol.policy import RoundPolicy

CLIENTS = tuple(f"client_{k}" for k in range(1, 6))


def running(rounds: int = 3, buffer: int = 2, places: int = 3, max_staleness: int = 5, **more: object) -> Drive:
    """Five workers with a client each, of which `places` train for round 1: the first clients."""
    drive = Drive(
        rounds=rounds,
        cohort=buffer,
        concurrency=places,
        max_staleness=max_staleness,
        expected=5,
        **more,  # type: ignore[arg-type]
    )
    drive.started(*(ready(f"w{client[-1]}", client) for client in CLIENTS))
    drive.say(ev.Selected(1, CLIENTS[:places]))
    return drive


def test_a_version_is_made_of_the_first_updates_and_the_others_go_on() -> None:
    drive = running()
    commands = drive.stored("w1", "train-1-client_1-0", "a")
    assert commands[1:] == [ev.Select(1, ("client_4", "client_5"), 1, 1)], "a place is free, whoever takes it"
    assert drive.say(ev.Selected(1, ("client_4",))) == [
        ev.OpenRound(1, (("client_1",), ("client_2",), ("client_3",), ("client_4",))),
        ev.Dispatch("w4", ("train-1-client_4-0",)),
    ]
    assert drive.stored("w2", "train-1-client_2-0", "b")[1:] == [ev.Aggregate(1, ("client_1", "client_2"))]
    # Two are under way: one place is free, for clients that have none.
    assert drive.say(ev.Committed(1)) == [ev.Select(2, ("client_1", "client_2", "client_5"), 1)]
    commands = drive.say(ev.Selected(2, ("client_1",)))
    assert commands[0] == ev.OpenRound(
        2, (("client_3",), ("client_4",), ("client_1",)), (("client_3", 1), ("client_4", 1))
    )
    assert dispatched(commands) == {"w1": "train-2-client_1-0"}
    # What began in round 1 is taken in round 2.
    assert drive.state.wants("train-1-client_3-0")
    assert drive.say(ev.ResultOffered("w3", "train-1-client_3-0", "c")) == [
        ev.Reply("w3", "train-1-client_3-0", "UPLOAD")
    ]
    assert drive.stored("w3", "train-1-client_3-0", "c")[0] == ev.Reply("w3", "train-1-client_3-0", "ACCEPTED")
    drive.say(ev.Selected(2, ("client_2",)))
    assert drive.stored("w1", "train-2-client_1-0", "d")[-1] == ev.Aggregate(2, ("client_1", "client_3"))


def test_a_client_counts_once_in_a_version_and_is_drawn_again_in_the_next() -> None:
    drive = running(buffer=2, places=2)
    (_, select) = drive.stored("w1", "train-1-client_1-0", "a")
    assert isinstance(select, ev.Select)
    assert "client_1" not in select.eligible
    drive.say(ev.Selected(1, ("client_5",)))
    drive.stored("w5", "train-1-client_5-0", "b")
    (select,) = drive.say(ev.Committed(1))
    assert isinstance(select, ev.Select)
    assert select.eligible == ("client_1", "client_3", "client_4", "client_5")


def test_a_training_that_is_too_old_is_stopped_and_its_result_is_late() -> None:
    drive = running(rounds=9, buffer=1, places=2, max_staleness=1)
    drive.stored("w1", "train-1-client_1-0", "a")
    drive.say(ev.Committed(1), ev.Selected(2, ("client_1",)))
    assert drive.state.wants("train-1-client_2-0"), "one version late is not too late"
    commands = drive.stored("w1", "train-2-client_1-0", "b")
    assert ev.CancelTask("w2", "train-1-client_2-0", "no later version can use it") in commands
    assert not drive.state.wants("train-1-client_2-0")
    (select,) = drive.say(ev.Committed(2))
    assert isinstance(select, ev.Select)
    assert "client_2" in select.eligible and select.count == 2
    assert drive.say(ev.ResultOffered("w2", "train-1-client_2-0", "c"))[0] == ev.Reply(
        "w2", "train-1-client_2-0", "LATE"
    )


def test_what_nobody_has_begun_starts_from_the_new_version() -> None:
    drive = Drive(rounds=3, cohort=1, concurrency=3, max_staleness=5, expected=3)
    drive.started(ready("w", "client_1", "client_2", "client_3"))
    (task,) = dispatched(drive.say(ev.Selected(1, CLIENTS[:3]))).values()
    drive.stored("w", task, "a")
    (select,) = drive.say(ev.Committed(1))
    assert isinstance(select, ev.Select)
    assert (select.eligible, select.count) == (CLIENTS[:3], 3)
    (opened, sent) = drive.say(ev.Selected(2, CLIENTS[:3]))
    assert opened == ev.OpenRound(2, tuple((client,) for client in CLIENTS[:3]))
    assert isinstance(sent, ev.Dispatch) and parse_task(sent.tasks[0])[0].round == 2


def test_after_the_last_version_nobody_trains() -> None:
    drive = running(rounds=1)
    drive.stored("w1", "train-1-client_1-0", "a")
    drive.say(ev.Selected(1, ("client_4",)))
    commands = drive.stored("w2", "train-1-client_2-0", "b")
    assert [c.worker for c in commands if isinstance(c, ev.CancelTask)] == ["w3", "w4"]
    assert isinstance(drive.say(ev.Committed(1))[-1], ev.Finish)


def test_a_client_that_fails_makes_room_and_is_not_tried_again_in_this_round() -> None:
    drive = running()
    commands = drive.say(ev.TaskFailed("w1", "train-1-client_1-0", "NONFINITE", "loss is NaN"))
    assert commands[-1] == ev.Select(1, ("client_4", "client_5"), 1, 1)
    drive.say(ev.Selected(1, ("client_4",)))
    drive.stored("w4", "train-1-client_4-0", "a")
    drive.say(ev.Selected(1, ("client_5",)))
    drive.stored("w2", "train-1-client_2-0", "b")
    (select,) = drive.say(ev.Committed(1))
    assert isinstance(select, ev.Select)
    assert "client_1" in select.eligible, "another version may suit it"


def test_a_round_that_cannot_be_filled_fails_the_run() -> None:
    drive = running(buffer=3, places=3)
    for k in range(1, 6):
        drive.say(ev.TaskFailed(f"w{k}", f"train-1-client_{k}-0", "NONFINITE", "loss is NaN"))
        if k < 3:
            drive.say(ev.Selected(1, (CLIENTS[k + 2],)))
    assert drive.state.phase is Phase.ENDED
    assert drive.state.version == 0


def test_a_lost_worker_does_not_hold_anything_up() -> None:
    drive = running()
    drive.say(ev.WorkerGone("w1", "its link is closed"))
    drive.stored("w2", "train-1-client_2-0", "a")
    drive.say(ev.Selected(1, ("client_4",)))
    commands = drive.stored("w3", "train-1-client_3-0", "b")
    assert ev.Aggregate(1, ("client_2", "client_3")) in commands
    (select,) = drive.say(ev.Committed(1))
    assert isinstance(select, ev.Select)
    assert "client_1" in select.eligible, "its training is not waited for; it may begin anew from version 1"


def test_a_restart_goes_on_with_trainings_of_any_round() -> None:
    progress = Progress(
        version=4,
        selected=(("client_3",), ("client_1",), ("client_2",)),
        accepted=(("client_1", "a"),),
        draw=1,
        started=(("client_3", 2),),
    )
    drive = Drive(rounds=9, cohort=2, concurrency=3, max_staleness=5, expected=5, progress=progress)
    assert drive.state.wants("train-2-client_3-0")
    assert not drive.state.wants("train-5-client_3-0")
    assert drive.state.in_use() >= {1, 4}, "their adapters must stay"
    for client in CLIENTS:
        task = ("train-2-client_3-0",) if client == "client_3" else ()
        drive.say(ready(f"w{client[-1]}", client, running=task))
    commands = drive.stored("w3", "train-2-client_3-0", "c")
    assert commands[-1] == ev.Aggregate(5, ("client_1", "client_3"))


def test_awaited_names_the_task_of_whatever_round() -> None:
    drive = running()
    drive.now = 7.0
    assert any("train client_3" in line for line in drive.state.awaited(drive.now))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_order_every_version_is_made_of_its_buffer(seed: int) -> None:
    """A random life: who finishes, fails, leaves or comes back when; five places of eight clients."""
    random, clients = Random(seed), tuple(f"client_{k}" for k in range(8))
    buffer, staleness = random.randint(1, 4), random.randint(0, 4)
    drive = Drive(rounds=12, cohort=buffer, concurrency=5, max_staleness=staleness, expected=8)
    hosts = {f"w{k}": (clients[2 * k], clients[2 * k + 1]) for k in range(4)}
    busy: dict[str, str] = {}
    counted: list[tuple[int, str, int]] = []
    buffered: dict[str, int] = {}
    commands = [c for name, own in hosts.items() for c in drive.say(ready(name, *own, size=random.randint(5, 20)))]
    for _ in range(4000):
        for command in commands:
            match command:
                case ev.Dispatch(worker, (task,)):
                    assert worker not in busy
                    busy[worker] = task
                case ev.CancelTask(worker, task, _):
                    assert busy.get(worker) == task
        events = [c for c in commands if isinstance(c, ev.Select | ev.Aggregate | ev.CancelTask)]
        commands = []
        for event in events:
            match event:
                case ev.Select(round, eligible, count, _):
                    assert count <= len(eligible) and len(set(eligible)) == len(eligible)
                    commands += drive.say(ev.Selected(round, tuple(sorted(random.sample(eligible, count)))))
                case ev.Aggregate(round, chosen):
                    assert len(chosen) == buffer and set(chosen) == buffered.keys()
                    assert all(0 <= round - began <= staleness for began in buffered.values())
                    counted += [(began, client, round) for client, began in buffered.items()]
                    buffered = {}
                    commands += drive.say(ev.Committed(round))
                case ev.CancelTask(worker, task, _):
                    del busy[worker]
                    commands += drive.say(ev.TaskFailed(worker, task, "CANCELLED", ""))
        if commands or drive.state.ended:
            if drive.state.ended:
                break
            continue
        worker = random.choice(sorted(hosts))
        task = busy.pop(worker, "")
        if task and random.random() < 0.8:
            job, _ = parse_task(task)
            if job.kind == "train" and drive.state.wants(task):
                assert job.unit not in buffered
                buffered[job.unit] = job.round
            commands = drive.stored(worker, task, f"{task} done")
            if job.kind == "init":
                commands += drive.say(ev.Committed(0))
        elif random.random() < 0.3:
            commands = drive.say(ev.WorkerGone(worker, "away")) + drive.say(ready(worker, *hosts[worker]))
        elif task:
            busy[worker] = task
    assert drive.state.version == 12
    assert len(set(counted)) == len(counted) == 12 * buffer
    assert len({(began, client) for began, client, _ in counted}) == len(counted), "no training counts twice"
    assert "too many" not in notes(commands)
    assert all(a <= b for a, b in pairwise(round for _, _, round in counted))


@pytest.mark.parametrize("how", ["over-selection", "async"])
def test_clients_that_wait_for_a_worker_all_get_their_turn(how: str) -> None:
    """Two workers, six clients, of which the first three count: neither size nor name keeps anybody out."""
    asynchronous = how == "async"
    options = {"concurrency": 6, "max_staleness": 9} if asynchronous else {"over_selection": 2.0}
    drive = Drive(rounds=300, cohort=3, expected=6, **options)  # type: ignore[arg-type]
    clients = tuple(f"client_{k}" for k in range(6))
    commands = drive.started(*(ready(name, *clients, size=10) for name in ("a", "b")))
    counted: Counter[str] = Counter()
    while not drive.state.ended:
        after: list[ev.Command] = []
        for command in commands:
            match command:
                case ev.Select(round, eligible, count, _):
                    after += drive.say(ev.Selected(round, eligible[:count]))
                case ev.Dispatch(worker, (task,)):
                    after += drive.stored(worker, task, "d")
                case ev.CancelTask(worker, task, _):
                    after += drive.say(ev.TaskFailed(worker, task, "CANCELLED", ""))
                case ev.Aggregate(round, chosen):
                    counted.update(chosen)
                    after += drive.say(ev.Committed(round))
        commands = after
    assert min(counted.values()) > 0.8 * 150 and len(counted) == 6, counted


def test_the_policy_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="cohort <= concurrency"):
        RoundPolicy(1, cohort=3, quorum=3, concurrency=2)
    with pytest.raises(ValueError, match="max_staleness >= 0"):
        RoundPolicy(1, cohort=1, quorum=1, concurrency=2, max_staleness=-1)
