"""A small world in which the real coordinator's and workers' state machines meet: no socket, no clock, faults at will.

It stands for the shells in `fedmq.runtime`: it turns messages into events and commands into messages,
keeps what would be durable, and loses what a broken link or a killed process would lose.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import Any

from agent import LOADED
from drive import TIMERS
from examples import example
from world_worker import RUN, Agent, ahead_s, digest

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Phase, Progress
from fedmq.protocol.policy import RoundPolicy
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork
from fedmq.protocol.worker_state import Link
from fedmq.recipe import RunSpec

ADAPTER = m.BlobRef("cd" * 32, 100)
SPEC = example(RunSpec)
WORKS = {"init": InitWork, "train": TrainWork, "evaluate": EvaluateWork, "generate": GenerateWork}


class Journal:
    """What survives the coordinator."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.selected: tuple[tuple[str, ...], ...] = ()
        self.accepted: dict[str, str] = {}
        self.draw = 0
        self.sizes: dict[str, Size] = {}
        self.gone: set[str] = set()
        self.folded: dict[int, tuple[str, ...]] = {}
        self.evaluated: set[int] = set()

    def progress(self) -> Progress:
        known = range(self.version + 1) if self.version is not None else ()
        missing = tuple(v for v in known if v not in self.evaluated)
        known = {"sizes": self.sizes, "gone": tuple(self.gone)}
        return Progress(self.version, self.selected, tuple(self.accepted.items()), missing, self.draw, **known)


class World:
    """A run of 4 rounds, 5 clients and 4 workers; with clients to be trained `together`, most have the same hosts."""

    def __init__(self, seed: int, deadline_s: float | None, rounds: int = 4, together: int = 1) -> None:
        self.random = random.Random(seed)
        self.policy = RoundPolicy(rounds, 3, 1, deadline_s, max_attempts=3, clients_per_batch=together)
        hosts = [(k % 4, (k + 1) % 4) if together == 1 else (0, 1, 2) if k < 4 else (2, 3) for k in range(5)]
        self.agents = [Agent(f"w{i}", [f"client_{k}" for k in range(5) if i in hosts[k]]) for i in range(4)]
        self.journal, self.now, self.finish = Journal(), 0.0, None
        #: whether a group had to be parted because nobody hosted it whole for too long
        self.parted = False
        self.starts = 0
        self.restart()

    def restart(self) -> None:
        """The coordinator's process is killed, and resumes from its journal."""
        self.starts += 1
        self.ahead_s = ahead_s(f"coordinator {self.starts}")
        self.state = CoordinatorState(
            self.policy, TIMERS, expected=5, progress=self.journal.progress(), started_at=self.clock
        )
        self.peers: dict[str, object] = {}
        self.boots: dict[str, str] = {}
        self.replaced: set[str] = set()
        self.talking: set[str] = set()
        #: of those, workers that have said on their present link that they are ready
        self.ready: set[str] = set()
        self.events: deque[ev.Event] = deque()
        for agent in self.agents:
            agent.late.clear()
            agent.reconnect()

    @property
    def clock(self) -> float:
        """What the coordinator reads on its own."""
        return self.now + self.ahead_s

    # --- the coordinator's shell -------------------------------------------------------------------

    def settle(self, *events: ev.Event) -> None:
        self.events.extend(events)
        while self.events:
            commands = self.state.handle(self.events.popleft(), self.clock)
            self.state.validate()
            for command in commands:
                self.obey(command)
        lost = (self.ready & self.peers.keys()) - self.state.roster.workers.keys()
        assert not lost or self.over, f"I11: {lost} would be answered, and never be given anything"

    def obey(self, command: ev.Command) -> None:
        match command:
            case ev.Dispatch(worker, tasks):
                given = []
                for task in tasks:
                    job, _ = parse_task(task)
                    work, adapter = example(WORKS[job.kind]), None if job.kind == "init" else ADAPTER
                    client = job.unit if job.unit.startswith("client_") else None
                    given.append(m.Task(task, "cd" * 16, job.round, client, 7, adapter, work, None, None, None))
                left_s = self.state.clock.left_s(self.clock) if given[0].work.kind == "train" else None
                self.tell(worker, m.Tasks(tuple(given), left_s))
            case ev.CancelTask(worker, task, reason):
                self.tell(worker, m.Cancel(task, reason))
            case ev.Reply(worker, task, code):
                job, _ = parse_task(task)
                durable = job.unit in self.journal.accepted if job.kind == "train" else self.journal.version is not None
                assert code != "ACCEPTED" or job.kind in ("evaluate", "generate") or durable, (
                    f"I5: {task} is not durable"
                )
                self.tell(worker, m.Verdict(task, code, ""))
            case ev.LeaveOut(client):
                self.journal.gone.add(client)
            case ev.Select(round, eligible, count):
                known = self.journal.sizes.keys() - self.journal.gone
                assert set(eligible) == known, "a restart would draw from the same clients"
                self.events.append(ev.Selected(round, tuple(self.random.sample(eligible, count))))
            case ev.OpenRound(round, groups):
                drawn_anew = self.state.clock.draw > 0
                assert bool(self.journal.selected) == drawn_anew and round == (self.journal.version or 0) + 1
                self.journal.selected, self.journal.draw = groups, self.state.clock.draw
            case ev.Aggregate(round, clients):
                drawn = set(itertools.chain(*self.journal.selected))
                assert set(clients) == set(self.journal.accepted) & drawn, "I2: what is folded is what is durable"
                assert self.policy.quorum <= len(clients) and set(clients) <= set(
                    itertools.chain(*self.journal.selected)
                )
                assert round == (self.journal.version or 0) + 1, "I3: no round is left out, or made twice"
                self.journal.version, self.journal.folded[round] = round, clients
                self.journal.selected, self.journal.accepted, self.journal.draw = (), {}, 0
                for name in self.peers:
                    self.tell(name, m.Committed(round, round + 1))
                self.events.append(ev.Committed(round))
            case ev.Note(text=text):
                self.parted |= "each goes by itself" in text
            case ev.Evict(worker):
                self.peers.pop(worker, None)
            case ev.Finish():
                self.finish = command

    def tell(self, worker: str, message: Any) -> None:
        agent = next((agent for agent in self.agents if agent.name == worker), None)
        assert agent is not None, f"I7: {worker} is told something, and is turned away"
        if self.peers.get(worker) is agent.link:
            agent.down.append(message)
        else:
            self.events.append(ev.WorkerGone(worker, "its link is closed"))

    def hear(self, agent: Agent, message: Any, link: object = None) -> None:
        """One message of a worker; on a link that it has no more, nobody reads the answer."""
        name, link = agent.name, link or agent.link
        down = agent.down if link is agent.link else deque[Any]()
        if isinstance(message, m.Hello):
            # As `Links.bind` does.
            if message.boot_id in self.replaced and name in self.talking:
                down.append(m.Reject("NAME_TAKEN", "", ()))
                return
            self.peers[name] = link
            self.talking.discard(name)
            self.ready.discard(name)
            before = self.boots.get(name, message.boot_id)
            restarted, self.boots[name] = before != message.boot_id, message.boot_id
            self.replaced = self.replaced - {message.boot_id} | ({before} if restarted else set())
            self.settle(ev.WorkerGreeted(name, restarted))
            waits = restarted and any(state.worker == name for state in self.state.roster.jobs.values())
            assert not waits, f"I11: {name} was restarted, and what it had is still waited for"
            fields = example(m.Welcome).__dict__ | {"run": RUN, "heartbeat_s": 1.0, "silence_s": 20.0, "spec": SPEC}
            down.append(m.Welcome(**fields))
            return
        if self.peers.get(name) is not link:
            down.append(m.Reject("REHELLO", "", ()))
            return
        if not isinstance(message, m.Goodbye):
            self.talking.add(name)
        match message:
            case m.Ready(running=running, outbox=outbox):
                self.ready.add(name)
                sizes = dict.fromkeys(agent.clients, Size(10, 250))
                self.journal.sizes |= sizes
                self.journal.gone -= sizes.keys()
                test = name in ("w0", "w1")
                self.settle(ev.WorkerReady(name, sizes, evaluates_test=test, running=running, outbox=outbox))
            case m.Heartbeat(task, phase, step, total):
                down.append(m.HeartbeatAck(1))
                self.settle(ev.Heard(name, task, phase, step, total))
            case m.Offer(task=task, blob=blob):
                self.require_of_its_time(task)
                self.settle(ev.ResultOffered(name, task, blob.digest))
            case m.Evaluated() | m.Generated():
                if self.state.wants(message.task) and isinstance(message, m.Evaluated):
                    self.journal.evaluated.add(parse_task(message.task)[0].round)
                self.settle(ev.ResultStored(name, message.task))
            case m.TaskFailed(task, _, code, text):
                job, attempt = parse_task(task)
                state = self.state.roster.jobs.get(job)
                over = state is not None and (state.worker, state.attempt) != (name, attempt)
                failures = state.failures if state is not None else 0
                self.settle(ev.TaskFailed(name, task, code, text))
                assert not over or state.failures == failures, f"I6: {task} is over, and its failure counts"
            case m.Goodbye(reason):
                self.settle(ev.WorkerGone(name, reason))

    def hear_late(self, agent: Agent, which: int, times: int) -> None:
        """Some of what was said on one of its links that are no more."""
        link, said = agent.late[which % len(agent.late)]
        for _ in range(min(times, len(said))):
            self.hear(agent, said.popleft(), link)
        agent.late = [(of, rest) for of, rest in agent.late if rest]

    def require_of_its_time(self, task: str) -> None:
        """What was made for a round that is over is wanted no more, on whatever link it comes."""
        job, _ = parse_task(task)
        over = job.kind == "train" and job.round <= (self.journal.version or 0)
        assert not (over and self.state.wants(task)), f"I6: {task} is wanted, and round {job.round} is committed"

    def uploaded(self, agent: Agent, offer: m.Offer) -> None:
        """An upload is complete."""
        self.require_of_its_time(offer.task)
        job, _ = parse_task(offer.task)
        stored = ev.ResultStored(agent.name, offer.task, offer.blob.digest)
        if not self.state.wants(offer.task):
            self.settle(stored)
        elif job.kind == "init":
            assert self.journal.version is None, "I1: a second first adapter"
            self.journal.version = 0
            self.settle(stored, ev.Committed(0))
        else:
            assert job.unit not in self.journal.accepted, f"I1: {job.unit} would count twice"
            (group,) = [group for group in self.journal.selected if job.unit in group]
            company = offer.blob.digest == digest(offer.task, group)
            # What was trained for a draw that was abandoned is as good for the next one that has the client.
            assert company or self.parted or self.journal.draw, f"I4: {job.unit} was trained in other company"
            self.journal.accepted[job.unit] = offer.blob.digest
            self.settle(stored)

    # --- what can happen to one worker -------------------------------------------------------------

    def exchange(self, agent: Agent) -> None:
        """Messages under way arrive, in order, in both directions."""
        agent.feed(we.Tick(), self.now)
        for turn in itertools.count():
            assert turn < 200, f"I11: {agent.name} is answered for ever: {agent.up} {agent.down}"
            if agent.up:
                self.hear(agent, agent.up.popleft())
            elif agent.down and agent.state.link is not Link.ENDED:
                agent.feed(we.Received(agent.down.popleft()), self.now)
            else:
                return

    def work(self, agent: Agent, fails: bool = False) -> None:
        """Whatever the worker was at comes to its end; of a group some, so that anything can happen before the rest."""
        if agent.loading:
            agent.loading = False
            agent.feed(we.Prepared(LOADED), self.now)
        agent.fetched(self.now)
        for task in agent.at_work[: self.random.randint(1, 3)]:
            agent.at_work.remove(task)
            if agent.halting or fails:
                code, fails = ("CANCELLED", False) if agent.halting else (self.random.choice(["OOM", "CRASHED"]), False)
                if code == "CRASHED":
                    agent.at_work = []
                agent.feed(we.Broke(code, "in words", task=None if code == "CRASHED" else task.task), self.now)  # type: ignore[arg-type]
            else:
                agent.feed(we.Finished(agent.result(task)), self.now)
            if not agent.at_work:
                return

    def upload(self, agent: Agent) -> None:
        for offer in list(agent.uploads.values()):
            agent.uploads.pop(offer.task)
            self.uploaded(agent, offer)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.settle(ev.Tick())

    @property
    def over(self) -> bool:
        return self.state.phase is Phase.ENDED
