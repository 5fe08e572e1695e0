"""Which versions continue the prompts, and when."""

from __future__ import annotations

import pytest
from drive import Drive, dispatched, ready

from fedmq.protocol import events as ev
from fedmq.protocol.phases import Progress


def texts(*, workers: int, rounds: int, generates: int, progress: Progress = Progress()) -> list[int]:
    """The versions that continue the prompts in a run without mishaps, in the order of their going out."""
    drive = Drive(rounds=rounds, cohort=2, expected=2, generates=generates, progress=progress)
    queue = [drive.say(ready(f"w{k}", "client_1", "client_2", test=True)) for k in range(workers)]
    seen = []
    while queue:
        for command in queue.pop(0):
            match command:
                case ev.Dispatch(worker, (task,)):
                    kind, round, _ = task.split("-", 2)
                    seen += [int(round)] if kind == "generate" else []
                    queue.append(drive.stored(worker, task, task))
                    if kind == "init":
                        queue.append(drive.say(ev.Committed(0)))
                case ev.Select(round, eligible, _, _):
                    queue.append(drive.say(ev.Selected(round, eligible)))
                case ev.Aggregate(round, _):
                    queue.append(drive.say(ev.Committed(round)))
    drive.say(ev.Tick())
    assert drive.state.ended
    return seen


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_version_continues_the_prompts_once(workers: int) -> None:
    assert texts(workers=workers, rounds=4, generates=1) == [0, 1, 2, 3, 4]


def test_the_first_and_the_last_version_always_do() -> None:
    assert texts(workers=2, rounds=7, generates=3) == [0, 3, 6, 7]
    assert texts(workers=2, rounds=3, generates=50) == [0, 3]
    assert texts(workers=2, rounds=3, generates=0) == []


def test_a_resumed_run_makes_up_for_what_is_missing() -> None:
    resumed = Progress(2, ungenerated=(0, 1, 2), hosts={}, sizes={})
    assert texts(workers=1, rounds=3, generates=2, progress=resumed) == [0, 2, 3]
    ended = Progress(3, ungenerated=(3,))
    assert texts(workers=1, rounds=3, generates=2, progress=ended) == [3]
    assert texts(workers=1, rounds=3, generates=2, progress=Progress(3)) == []


def test_texts_wait_for_trainings_of_one_round_and_not_of_two() -> None:
    drive = Drive(rounds=3, cohort=2, expected=2, generates=1)
    drive.say(ready("a", "client_1", "client_2", test=True))
    drive.stored("a", "init-0-adapter-0", "d0")
    drive.say(ev.Committed(0))
    drive.say(ev.Selected(1, ("client_1", "client_2")))
    assert dispatched(drive.stored("a", "evaluate-0-test-0")) == {"a": "train-1-client_1-0"}
    assert dispatched(drive.stored("a", "train-1-client_1-0", "d1")) == {"a": "train-1-client_2-0"}
    # The update that ends the round: its worker would be idle now.
    assert dispatched(drive.stored("a", "train-1-client_2-0", "d2")) == {"a": "generate-0-prompts-0"}
    drive.say(ev.Committed(1))
    drive.say(ev.Selected(2, ("client_1", "client_2")))
    assert drive.state.in_use() == {0, 1}
    drive.say(ev.TaskFailed("a", "generate-0-prompts-0", "ERROR", "once"))
    # It is of the version before the newest by now: it goes before trainings.
    assert drive.state.roster.workers["a"].hand.keys() == {("evaluate", 1, "test")}
    assert dispatched(drive.stored("a", "evaluate-1-test-0")) == {"a": "generate-0-prompts-1"}
    assert dispatched(drive.stored("a", "generate-0-prompts-1")) == {"a": "train-2-client_1-0"}
