"""Both state machines under hypothesis: whatever is delivered, lost, damaged, said twice, killed, or turned away.

After every step the invariants hold, and when the faults end the run does. Messages of one link keep their order, as on
TCP; those of different workers, and the data plane beside the control plane, overtake each other as hypothesis likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from calm import calm, check_ended
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from world import Agent, World

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we

#: how often each rule did something, in all examples
HAPPENED: Counter[str] = Counter()
RULES = (
    *("deliver up", "deliver down", "exchange", "work", "fail", "upload", "go on", "time"),
    *("drop", "duplicate", "corrupt up", "corrupt down", "corrupt update"),
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
    def beat(self, who: int) -> None:
        """The worker looks at its clock, and says what there is to say."""
        if agent := self.agent(who):
            agent.feed(we.Tick(), self.world.now)

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
        if agent := self.agent(who, lambda agent: agent.up):
            HAPPENED["duplicate"] += 1
            self.world.hear(agent, agent.up[0])

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

    @rule(who=WHO, dice=DICE)
    def crash_worker(self, who: int, dice: int) -> None:
        if dice == 0 and (agent := self.agent(who)):
            HAPPENED["crash worker"] += 1
            agent.restart()

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

    @rule(who=WHO, dice=DICE)
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
        assert {round: folded.get(round) for round in self.folded} == self.folded, "a committed round has changed (I2)"
        assert sorted(folded) == list(range(1, len(folded) + 1)), "a version is missing (I3)"
        self.folded = dict(folded)

    @invariant()
    def nobody_who_is_out_has_anything(self) -> None:
        roster = self.world.state.roster
        assert not self.revoked & roster.workers.keys(), "a revoked worker takes part (I7)"
        assert not any(state.worker in self.revoked for state in roster.jobs.values()), "it has a task (I7)"

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        """I8: whatever was said, and how often."""
        roster, clients = self.world.state.roster, 5
        assert len(roster.jobs) <= 3 * clients + 3, "jobs"
        assert all(len(worker.hand) <= clients for worker in roster.workers.values()), "what a worker has in hand"
        assert all(len(agent.outbox) <= 2 * clients for agent in self.world.agents), "an outbox"

    def teardown(self) -> None:
        """The faults have ended; whoever left is back (I11)."""
        world = self.world
        for agent in world.agents:
            if agent.exit is not None and not world.over:
                agent.restart()
        calm(world)
        check_ended(world)


def test_whatever_happens_the_invariants_hold(nightly: bool) -> None:
    HAPPENED.clear()
    run_state_machine_as_test(
        Federation,
        settings=settings(
            max_examples=5000 if nightly else 200,
            stateful_step_count=60,
            deadline=None,
            derandomize=not nightly,
            # A failing run is long: to find a shorter one would take longer than a test may.
            phases=[Phase.generate, Phase.shrink] if nightly else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    # What hypothesis draws depends on the modules that are loaded, so a rare rule may have no occasion.
    idle = [name for name in RULES if not HAPPENED[name]]
    assert len(idle) <= 2, f"rules that never did anything: {idle}; {HAPPENED}"
