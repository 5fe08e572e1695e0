"""Any event at any time: a worker never does two tasks at once, and never throws a result away unasked."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from agent import LOADED, WELCOME, Agent, evaluated, offer, tasks

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.worker_state import Link

GROUPS = [tuple(f"train-{round}-client_{k}-{attempt}" for k in (3, 4, 5)) for round in (1, 2) for attempt in (0, 1)]
ALONE = [("evaluate-1-test-0",), ("init-0-adapter-0",), ("train-2-client_3-2",)]
TASKS = [task for group in [*GROUPS, *ALONE] for task in group]
VERDICTS = ["UPLOAD", "ACCEPTED", "DUPLICATE", "LATE", "UNKNOWN_TASK", "INVALID"]


RESULTS = {name: evaluated(name) if name.startswith("evaluate") else offer(name) for name in TASKS}
EVENTS: list[Any] = [
    *[we.Tick()] * 30,
    *[we.Received(tasks(*group)) for group in [*GROUPS, *ALONE]] * 16,
    *[we.Received(m.Verdict(name, code, "")) for name in TASKS for code in VERDICTS],  # type: ignore[arg-type]
    *[we.Received(m.Cancel(name, "")) for name in TASKS] * 2,
    *[we.Finished(result) for result in RESULTS.values()] * 9,
    *[we.Fetched("ab" * 32, 100)] * 40,
    *[we.Received(WELCOME)] * 25,
    *[we.Linked()] * 8,
    *[we.Received(dataclasses.replace(WELCOME, run=digit * 32)) for digit in "01"],
    *[we.Prepared(LOADED)] * 20,
    *[we.Received(m.Committed(round, round + 1)) for round in (0, 1, 2)] * 3,
    *[we.Broke(code, "in words") for code in ("CRASHED", "CANCELLED", "OOM", "NONFINITE")] * 6,  # type: ignore[arg-type]
    *[we.Received(m.HeartbeatAck(1)), we.Received(m.Reject("REHELLO", "", ())), we.Stepped(1, 2)] * 8,
]


class Observer:
    """What the agent's commands amount to."""

    def __init__(self) -> None:
        #: of the trainer: what it has not answered for, and what it was given with that
        self.at_work: list[str] = []
        self.together: tuple[str, ...] = ()
        self.unjudged: dict[str, m.Offer] = {}

    def see(self, event: Any, commands: list[Any], agent: Agent) -> None:
        message = getattr(event, "message", None)
        for command in commands:
            match command:
                case we.Run(given):
                    # What it is still at was made before, and is only done for the company of what was not.
                    assert not agent.state.hand.owed & set(self.at_work), f"begun while {self.at_work} is at work"
                    self.together = tuple(task.task for task in given)
                    assert self.together in [*GROUPS, *ALONE], "a group is done whole"
                    self.at_work = list(self.together)
                case we.Prepare():
                    self.at_work = []
                case we.Halt():
                    assert agent.state.hand.owed <= agent.state.hand.unwanted, "nothing that is wanted is stopped"
                case we.Forget(name):
                    asked = isinstance(message, m.Verdict | m.Cancel | m.Committed | m.Welcome | m.Tasks)
                    assert asked, f"{name} is forgotten on {event}"
                    assert not (isinstance(message, m.Verdict) and message.code == "UPLOAD")
                    self.unjudged.pop(name, None)
                case we.Send(m.Offer() as sent):
                    self.unjudged[sent.task] = sent
                    assert agent.state.outbox.get(sent.task) == sent, "what is offered can be uploaded"
                case we.Upload(sent):
                    assert agent.state.outbox.get(sent.task) == sent
        if agent.state.link is Link.READY:
            waiting = set(agent.state.outbox) - agent.state.settled
            assert waiting <= set(self.unjudged), "what is finished has been offered"


def answer(event: Any, observer: Observer, dice: random.Random) -> Any:
    """What a trainer says that was given `observer.at_work`: one answer to each task, and nothing else."""
    if isinstance(event, we.Broke) and event.code == "CRASHED":
        observer.at_work = []
        return event
    task = observer.at_work.pop(dice.randrange(len(observer.at_work)))
    return we.Finished(RESULTS[task]) if isinstance(event, we.Finished) else dataclasses.replace(event, task=task)


@pytest.mark.parametrize("group", range(4))
def test_any_event_at_any_time(group: int) -> None:
    seen: set[str] = set()
    for seed in range(group * 50, (group + 1) * 50):
        dice, agent, observer = random.Random(seed), Agent(), Observer()
        try:
            for _ in range(200):
                event = dice.choice(EVENTS)
                if isinstance(event, we.Finished | we.Broke):
                    if not observer.at_work:
                        continue
                    event = answer(event, observer, dice)
                if isinstance(event, we.Tick):
                    agent.now += dice.choice([0.1, 1.0, 5.0, 30.0])
                commands = agent.say(event)
                observer.see(event, commands, agent)
                seen |= {type(command).__name__ for command in commands}
        except Exception as error:
            error.add_note(f"storm with seed {seed}")
            raise
    assert seen == {"Send", "Prepare", "Fetch", "Run", "Halt", "Upload", "Forget", "Rebuild"}, "everything has happened"


@pytest.mark.parametrize("seed", range(20))
def test_an_agent_that_has_ended_says_nothing(seed: int) -> None:
    dice, agent = random.Random(seed), Agent().working()
    agent.say(we.Leave("Ctrl-C"))
    for _ in range(50):
        assert agent.say(dice.choice(EVENTS)) == []
