"""Both state machines in one world of faults: links break, processes are killed and come back, clocks jump.

When the faults end, the run ends. Killing anything at any time never loses a committed round, never
counts a client twice in one, and leaves no worker waiting for ever. A failure names its seed.
"""

from __future__ import annotations

from unittest import mock

import pytest
from calm import calm, check_ended
from world import World

from fedmq.protocol import messages as m

STORMS = 40
STEPS = 250


def step(world: World) -> str:
    """One thing happens."""
    agent = world.random.choice(world.agents)
    happening = world.random.choices(
        ["exchange", "work", "fails", "upload", "time", "link", "worker", "coordinator"], [20, 10, 1, 8, 6, 2, 1, 0.5]
    )[0]
    match happening:
        case "exchange":
            world.exchange(agent)
        case "work":
            world.work(agent)
        case "fails":
            world.work(agent, fails=True)
        case "upload":
            world.upload(agent)
        case "time":
            world.tick(world.random.choices([0.125, 1.0, 6.0, 25.0], [8, 8, 3, 0.5])[0])
        case "link":
            agent.reconnect()
        case "worker":
            agent.restart()
        case "coordinator" if not world.over:
            world.restart()
    return happening


@pytest.mark.parametrize("group", range(6))
def test_every_run_ends(group: int) -> None:
    happened: dict[str, int] = {}
    outcomes: list[str] = []
    for seed in range(group * STORMS, (group + 1) * STORMS):
        world = World(seed, deadline_s=[None, None, 40.0][seed % 3], together=[1, 2, 3][group % 3])
        try:
            for _ in range(STEPS):
                happening = step(world)
                happened[happening] = happened.get(happening, 0) + 1
            calm(world)
            check_ended(world)
        except Exception as error:
            error.add_note(f"storm with seed {seed}")
            raise
        assert world.finish is not None
        outcomes.append(world.finish.outcome)
    assert outcomes.count("done") > 0.8 * STORMS, "most runs survive their storm"
    assert min(happened.values()) > 0.2 * STORMS and len(happened) == 8, "every fault has happened"


@pytest.mark.parametrize("together", [1, 2, 3])
def test_without_faults_nothing_is_done_twice(together: int) -> None:
    world = World(0, deadline_s=None, together=together)
    dispatched: list[str] = []
    tell = world.tell

    def listening(worker: str, message: object) -> None:
        if isinstance(message, m.Tasks):
            dispatched.extend(task.task for task in message.tasks)
        tell(worker, message)

    world.tell = listening  # type: ignore[method-assign]
    calm(world)
    assert world.finish is not None and world.finish.outcome == "done"
    assert len(dispatched) == len(set(dispatched)) == 1 + 4 * 3 + 5 + 5
    assert all(task.endswith("-0") for task in dispatched)


def history(seed: int) -> list[str]:
    """What the coordinator told its workers in a storm, and how that ended."""
    world = World(seed, deadline_s=40.0, together=1 + seed % 3)
    told: list[str] = []
    tell = world.tell

    def listening(worker: str, message: object) -> None:
        told.append(f"{worker} {message}")
        tell(worker, message)

    world.tell = listening  # type: ignore[method-assign]
    for _ in range(STEPS):
        step(world)
    calm(world)
    check_ended(world)
    return [*told, str(world.finish)]


@pytest.mark.parametrize("seed", range(12))
def test_what_each_clock_shows_changes_nothing(seed: int) -> None:
    """I12: no time of one process is compared with one of another. All times here are exact as float."""
    apart = history(seed)
    with mock.patch("world.ahead_s", return_value=0.0), mock.patch("world_worker.ahead_s", return_value=0.0):
        assert history(seed) == apart
