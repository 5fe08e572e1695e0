"""Any event at any time: a worker never does two tasks at once, and never throws a result away unasked."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from agent import LOADED, WELCOME, Agent, evaluated, offer, task

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.worker_state import Link

TASKS = [f"train-{round}-client_3-{attempt}" for round in (1, 2) for attempt in (0, 1)] + [
    "evaluate-1-test-0",
    "init-0-adapter-0",
]
VERDICTS = ["UPLOAD", "ACCEPTED", "DUPLICATE", "LATE", "UNKNOWN_TASK", "INVALID"]


RESULTS = {name: evaluated(name) if name.startswith("evaluate") else offer(name) for name in TASKS}
EVENTS: list[Any] = [
    *[we.Tick()] * 30,
    *[we.Received(task(name)) for name in TASKS] * 7,
    *[we.Received(m.Verdict(name, code, "")) for name in TASKS for code in VERDICTS],  # type: ignore[arg-type]
    *[we.Received(m.Cancel(name, "")) for name in TASKS] * 2,
    *[we.Finished(result) for result in RESULTS.values()] * 7,
    *[we.Fetched("ab" * 32, 100)] * 40,
    *[we.Received(WELCOME)] * 25,
    *[we.Received(dataclasses.replace(WELCOME, run=digit * 32)) for digit in "01"],
    *[we.Prepared(LOADED)] * 20,
    *[we.Received(m.Committed(round)) for round in (0, 1, 2)] * 3,
    *[we.Broke(code, "in words") for code in ("CRASHED", "CANCELLED", "OOM")] * 4,  # type: ignore[arg-type]
    *[we.Received(m.HeartbeatAck(1)), we.Received(m.Reject("REHELLO", "", ())), we.Stepped(1, 2)] * 8,
]


class Observer:
    """What the agent's commands amount to."""

    def __init__(self) -> None:
        self.at_work: str | None = None
        self.unjudged: dict[str, m.Offer] = {}

    def see(self, event: Any, commands: list[Any], agent: Agent) -> None:
        message = getattr(event, "message", None)
        if isinstance(event, we.Finished | we.Broke):
            self.at_work = None
        for command in commands:
            match command:
                case we.Run(task):
                    assert self.at_work is None, f"{task.task} is begun while {self.at_work} is at work"
                    self.at_work = task.task
                case we.Prepare():
                    self.at_work = None
                case we.Forget(name):
                    asked = isinstance(message, m.Verdict | m.Cancel | m.Committed | m.Welcome)
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


@pytest.mark.parametrize("group", range(4))
def test_any_event_at_any_time(group: int) -> None:
    seen: set[str] = set()
    for seed in range(group * 50, (group + 1) * 50):
        dice, agent, observer = random.Random(seed), Agent(), Observer()
        try:
            for _ in range(200):
                event = dice.choice(EVENTS)
                if isinstance(event, we.Finished | we.Broke):
                    # The trainer answers what it was given: once, and nothing else.
                    if observer.at_work is None:
                        continue
                    if isinstance(event, we.Finished):
                        event = we.Finished(RESULTS[observer.at_work])
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
