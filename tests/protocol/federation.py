"""Both state machines under hypothesis: whatever is delivered, lost, late, damaged, said twice, killed, or turned away.

After every step the invariants hold, and when the faults end the run does. Messages of one link keep their order, as on
TCP; those of different workers, and of a worker's links one after the other, and the data plane beside the control
plane, overtake each other as hypothesis likes.

Looked at here: that nothing counts twice (I1), what is folded (I2), versions (I3), the company of a training (I4), that
nothing is accepted before it is in the journal (I5), that nothing of a round that is over is wanted (I6), that who is
revoked has nothing (I7), counts (I8), what a worker deletes and does (I10), that every run ends (I11). I12 is in
test_storms_together.py; numbers, disks, epochs and the time of day are in tests/simulation.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

from calm import calm, check_ended
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from world import World
from world_worker import Agent

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.jobs import parse_task

#: how often each rule did something, in all examples
HAPPENED: Counter[str] = Counter()
RULES = (
    *("deliver up", "deliver down", "exchange", "work", "fail", "upload", "go on", "time"),
    *("drop", "duplicate", "reorder links", "late", "reorder uploads", "reorder up", "reorder down"),
    *("corrupt up", "corrupt down", "corrupt update"),
    *("crash coordinator", "crash worker", "power cut", "join", "leave", "come back", "revoke"),
)
MAX_WORKERS = 6
WHO = st.integers(0, MAX_WORKERS - 1)
#: What would leave nothing else to look at happens seldom.
DICE = st.sampled_from([1, 2, 3, 4, 0])


class Federation(RuleBasedStateMachine):
    """A coordinator and its workers; rules are what can happen to them."""

    @initialize(
        seed=st.integers(0, 1 << 16),
        deadline_s=st.sampled_from([None, None, 40.0]),
        together=st.integers(1, 3),
        turns=st.integers(0, 5),
    )
    def begin(self, seed: int, deadline_s: float | None, together: int, turns: int) -> None:
        self.world = World(seed, deadline_s, together=together)
        self.folded: dict[int, tuple[str, ...]] = {}
        self.revoked: set[str] = set()
        calm(self.world, turns)

    def agent(self, who: int, has: Callable[[Agent], object] = lambda agent: True) -> Agent | None:
        """One of those that have something; of all, if nothing is asked for."""
        those = [agent for agent in self.world.agents if has(agent)]
        return those[who % len(those)] if those else None

    def speaker(self, who: int) -> Agent | None:
        """One that has said something that is not heard yet; if there is none, a second passes and one does so."""
        if (agent := self.agent(who, lambda agent: agent.up)) is None and (agent := self.agent(who)):
            self.world.tick(1.0)
            agent.feed(we.Tick(), self.world.now)
        return agent if agent and agent.up else None

    # --- what goes well ----------------------------------------------------------------------------

    @rule(who=WHO, times=st.integers(1, 5))
    def deliver_up(self, who: int, times: int) -> None:
        if agent := self.agent(who, lambda agent: agent.up):
            HAPPENED["deliver up"] += 1
            for _ in range(min(times, len(agent.up))):
                self.world.hear(agent, agent.up.popleft())

    @rule(who=WHO, times=st.integers(1, 5))
    def deliver_down(self, who: int, times: int) -> None:
        if agent := self.agent(who, lambda agent: agent.down and agent.exit is None):
            HAPPENED["deliver down"] += 1
            for _ in range(times):
                if agent.down and agent.exit is None:
                    agent.feed(we.Received(agent.down.popleft()), self.world.now)

    @rule(who=WHO)
    def exchange(self, who: int) -> None:
        if agent := self.agent(who):
            HAPPENED["exchange"] += 1
            self.world.exchange(agent)

    @rule(who=WHO)
    def work(self, who: int) -> None:
        calm(self.world, 1, far=1)
        if agent := self.agent(who, lambda agent: agent.at_work):
            HAPPENED["work"] += 1
            self.world.work(agent)
            self.world.exchange(agent)

    @rule(who=WHO)
    def fail(self, who: int) -> None:
        calm(self.world, 1, far=1)
        if agent := self.agent(who, lambda agent: agent.at_work):
            HAPPENED["fail"] += 1
            self.world.work(agent, fails=True)

    @rule(who=WHO)
    def upload(self, who: int) -> None:
        if agent := self.agent(who, lambda agent: agent.uploads):
            HAPPENED["upload"] += 1
            self.world.upload(agent)

    @rule(turns=st.integers(1, 3), far=st.integers(1, 3))
    def go_on(self, turns: int, far: int) -> None:
        HAPPENED["go on"] += 1
        calm(self.world, turns, far)

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 6.0, 25.0]))
    def time(self, seconds: float) -> None:
        HAPPENED["time"] += 1
        self.world.tick(seconds)

    # --- what the network does ---------------------------------------------------------------------

    @rule(who=WHO)
    def drop(self, who: int) -> None:
        """The link breaks, and what was on its way is lost."""
        if agent := self.agent(who, lambda agent: agent.up or agent.down):
            HAPPENED["drop"] += 1
            agent.reconnect()

    @rule(who=WHO)
    def duplicate(self, who: int) -> None:
        if agent := self.speaker(who):
            HAPPENED["duplicate"] += 1
            self.world.hear(agent, agent.up[0])

    @rule(who=WHO)
    def reorder_links(self, who: int) -> None:
        """The link breaks, and what was on its way up is read when more has been said on the next."""
        if agent := self.speaker(who):
            HAPPENED["reorder links"] += 1
            agent.reconnect(late=True)

    @rule(who=WHO, which=st.integers(0, 3), times=st.integers(1, 5))
    def late(self, who: int, which: int, times: int) -> None:
        """Some of what was said on a link that is no more is read."""
        if agent := self.agent(who, lambda agent: agent.late):
            HAPPENED["late"] += 1
            self.world.hear_late(agent, which, times)

    @rule(who=WHO, which=st.integers(0, 4))
    def reorder_uploads(self, who: int, which: int) -> None:
        """One update comes before another that was to come first."""
        calm(self.world, 1, far=2)
        if agent := self.agent(who, lambda agent: len(agent.uploads) > 1):
            HAPPENED["reorder uploads"] += 1
            _, *others = agent.uploads
            self.world.uploaded(agent, agent.uploads.pop(others[which % len(others)]))

    @rule(who=WHO)
    def reorder_up(self, who: int) -> None:
        """An update comes before what was said before it."""
        calm(self.world, 1, far=2)
        self.speaker(who)
        if agent := self.agent(who, lambda agent: agent.uploads and agent.up):
            HAPPENED["reorder up"] += 1
            self.world.uploaded(agent, agent.uploads.pop(next(iter(agent.uploads))))

    @rule(who=WHO)
    def reorder_down(self, who: int) -> None:
        """An adapter comes before what the coordinator said before it."""
        calm(self.world, 1, far=1)
        if speaker := self.speaker(who):
            self.world.hear(speaker, speaker.up.popleft())
        if agent := self.agent(who, lambda agent: agent.fetching and agent.down):
            HAPPENED["reorder down"] += 1
            agent.fetched(self.world.now)

    @rule(who=WHO)
    def corrupt_up(self, who: int) -> None:
        """The coordinator cannot read it: whoever speaks on that link must say hello again."""
        if agent := self.agent(who, lambda agent: agent.up):
            HAPPENED["corrupt up"] += 1
            agent.up.popleft()
            self.world.peers.pop(agent.name, None)

    @rule(who=WHO)
    def corrupt_down(self, who: int) -> None:
        """The worker cannot read it, and makes its links anew."""
        if agent := self.agent(who, lambda agent: agent.down):
            HAPPENED["corrupt down"] += 1
            agent.obey(we.Rebuild())

    @rule(who=WHO)
    def corrupt_update(self, who: int) -> None:
        """What comes is not what was offered: it is refused, and the task counts as failed."""
        if agent := self.agent(who, lambda agent: agent.uploads):
            HAPPENED["corrupt update"] += 1
            task, _ = agent.uploads.popitem()
            self.world.tell(agent.name, m.Verdict(task, "INVALID", ""))
            self.world.settle(ev.TaskFailed(agent.name, task, "INVALID", ""))

    # --- what dies, comes and goes -----------------------------------------------------------------

    @rule(dice=DICE)
    def crash_coordinator(self, dice: int) -> None:
        if dice == 0 and not self.world.over:
            HAPPENED["crash coordinator"] += 1
            self.world.restart()

    @rule(who=WHO, dice=DICE, late=st.booleans())
    def crash_worker(self, who: int, dice: int, late: bool) -> None:
        """What it said last is lost, or is read when the next of its name is there."""
        if dice == 0 and (agent := self.agent(who)):
            HAPPENED["crash worker"] += 1
            agent.restart(late)

    @rule(dice=DICE)
    def power_cut(self, dice: int) -> None:
        if dice == 0 and not self.world.over:
            HAPPENED["power cut"] += 1
            for agent in self.world.agents:
                agent.restart()
            self.world.restart()

    @precondition(lambda self: len(self.world.agents) < MAX_WORKERS)
    @rule()
    def join(self) -> None:
        """One more, which hosts what the last one does."""
        HAPPENED["join"] += 1
        agents = self.world.agents
        names = {f"w{k}" for k in range(MAX_WORKERS + 1)} - {agent.name for agent in agents} - self.revoked
        agents.append(Agent(min(names), agents[-1].clients))

    @rule(who=WHO, dice=st.sampled_from([1, 2, 0]))
    def leave(self, who: int, dice: int) -> None:
        if dice == 0 and (agent := self.agent(who, lambda agent: agent.exit is None)):
            HAPPENED["leave"] += 1
            agent.feed(we.Leave("it was told to"), self.world.now)

    @rule(who=WHO)
    def come_back(self, who: int) -> None:
        if not self.world.over and (agent := self.agent(who, lambda agent: agent.exit)):
            HAPPENED["come back"] += 1
            agent.restart()

    @precondition(lambda self: not self.revoked and not self.world.over)
    @rule(who=WHO, dice=DICE)
    def revoke(self, who: int, dice: int) -> None:
        """The key of one worker is revoked: nothing that it sends is heard any more, and nothing may be told to it."""
        if dice == 0 and (agent := self.agent(who)):
            HAPPENED["revoke"] += 1
            self.world.agents.remove(agent)
            self.revoked.add(agent.name)
            self.world.peers.pop(agent.name, None)
            self.world.settle(ev.WorkerGone(agent.name, "its key was revoked"))

    # --- what always holds -------------------------------------------------------------------------

    @invariant()
    def what_is_committed_stays(self) -> None:
        folded = self.world.journal.folded
        assert {round: folded.get(round) for round in self.folded} == self.folded, "I2: a committed round has changed"
        assert sorted(folded) == list(range(1, len(folded) + 1)), "I3: a version is missing"
        self.folded = dict(folded)

    @invariant()
    def nobody_who_is_out_has_anything(self) -> None:
        roster = self.world.state.roster
        assert not self.revoked & roster.workers.keys(), "I7: a revoked worker takes part"
        assert not any(state.worker in self.revoked for state in roster.jobs.values()), "I7: it has a task"

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        """I8: whatever was said, and how often."""
        roster, clients = self.world.state.roster, 5
        assert len(roster.jobs) <= 3 * clients + 3, "I8: jobs"
        assert all(len(worker.hand) <= clients for worker in roster.workers.values()), "I8: what a worker has in hand"
        for agent in self.world.agents:
            assert len({parse_task(task)[0] for task in agent.outbox}) <= len(agent.clients) + 1, "I8: an outbox"

    def teardown(self) -> None:
        """The faults have ended; whoever left is back (I11)."""
        if sys.exc_info()[0] is not None:
            return  # what was found is not hidden by what follows from it
        world = self.world
        for agent in world.agents:
            if agent.exit is not None and not world.over:
                agent.restart()
        calm(world)
        check_ended(world)
