"""Driving the worker agent's state machine by hand: events in, commands out, `validate()` after each."""

from __future__ import annotations

import dataclasses
from typing import Any

from examples import example

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.trainer_link import Loaded
from fedmq.protocol.work import EvaluateWork, InitWork, TrainWork
from fedmq.protocol.worker_state import LINKS, Link, WorkerState

RUN = "ab" * 16
WELCOME = dataclasses.replace(example(m.Welcome), run=RUN, heartbeat_s=1.0, silence_s=20.0)
LOADED = dataclasses.replace(example(Loaded), device="cpu")
PREPARED = we.Prepared(LOADED)
HELLO = m.Hello((m.PROTOCOL_VERSION,), "w", "ef" * 16)
T1, T2 = "train-1-client_3-0", "train-2-client_3-0"
E1 = "evaluate-1-test-0"
WORKS = {"train": TrainWork, "evaluate": EvaluateWork, "init": InitWork}


def task(name: str = T1) -> m.Task:
    """The task of this name; a first adapter starts from nothing."""
    kind = parse_task(name)[0].kind
    adapter = None if kind == "init" else m.BlobRef("ab" * 32, 100)
    client = unit if (unit := parse_task(name)[0].unit).startswith("client_") else None
    return dataclasses.replace(
        example(m.Task), task=name, client=client, work=example(WORKS[kind]), adapter=adapter, delta=None, merged=None
    )


def tasks(*names: str) -> m.Tasks:
    """Tasks of these names, given together: trainings differ in their client."""
    return m.Tasks(tuple(task(name) for name in names or (T1,)))


def offer(name: str = T1) -> m.Offer:
    """A finished update."""
    return dataclasses.replace(example(m.Offer), task=name)


def evaluated(name: str = E1) -> m.Evaluated:
    """A finished evaluation."""
    return dataclasses.replace(example(m.Evaluated), task=name)


def verdict(code: Any, name: str = T1) -> m.Verdict:
    """What the coordinator says of a result."""
    return m.Verdict(name, code, "")


def failed(code: Any, text: str, name: str = T1) -> we.Send:
    """What the agent says of a task that came to nothing."""
    return we.Send(m.TaskFailed(name, task(name).nonce, code, text))


def announced(running: str = "", *outbox: str) -> we.Send:
    """The Ready that the agent sends; of several running tasks, the names with spaces between."""
    shared = {name: getattr(LOADED, name) for name in m.Ready.__dataclass_fields__ if hasattr(LOADED, name)}
    return we.Send(m.Ready(**shared, running=tuple(running.split()), outbox=outbox))


class Agent:
    """A worker under test."""

    def __init__(self, **fields: Any) -> None:
        self.state = WorkerState("w", HELLO.boot_id, **fields)
        self.now = 0.0

    def say(self, event: Any) -> list[Any]:
        """Feed one event."""
        link = self.state.link
        commands: list[Any] = self.state.handle(event, self.now)
        self.state.validate()
        # Two steps at most: silence leads to HELLO.
        assert self.state.link is link or self.state.link in LINKS[link]
        return commands

    def hear(self, message: Any) -> list[Any]:
        """A control message comes in."""
        return self.say(we.Received(message))

    def at(self, now: float) -> list[Any]:
        """Let the time be `now` (seconds)."""
        self.now = now
        return self.say(we.Tick())

    def ready(self) -> Agent:
        """Say hello, be welcomed, load."""
        self.say(we.Tick())
        self.hear(WELCOME)
        self.say(PREPARED)
        assert self.state.link is Link.READY
        return self

    def working(self, *names: str) -> Agent:
        """Ready, and at work on a task, or on several together."""
        self.ready().hear(tasks(*names))
        if self.state.hand.activity == "fetching":
            self.say(we.Fetched("ab" * 32, 100))
        assert self.state.hand.activity == "working"
        return self

    def uploading(self, name: str = T1) -> Agent:
        """Ready, and with a result that is not judged yet."""
        self.working(name).say(we.Finished(offer(name) if name.startswith("train") else evaluated(name)))
        assert self.state.hand.activity == "uploading"
        return self
