"""How a run in the small world goes on, and ends, when nothing goes wrong any more."""

from __future__ import annotations

from world import World


def calm(world: World, turns: int = 300, far: int = 3) -> None:
    """Nothing goes wrong for a while; 1: messages come, 2: and trainers work, 3: and updates come."""
    for _ in range(turns):
        if world.over:
            return
        for agent in world.agents:
            world.exchange(agent)
            if far > 1:
                world.work(agent)
                world.exchange(agent)
            if far > 2:
                world.upload(agent)
        world.tick(0.5)


def check_ended(world: World) -> None:
    """The run is over, with every version, or for one of the reasons that a storm may give."""
    assert world.finish is not None, f"I11: hangs in {world.state.phase}: {world.state.awaited(world.clock)}"
    if world.finish.outcome == "done":
        assert sorted(world.journal.folded) == [1, 2, 3, 4]
    else:
        assert any(why in world.finish.reason for why in ("quorum", "are left", "did not come", "no first"))
