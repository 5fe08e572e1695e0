"""Random storms over the coordinator's state machine: workers come, go, fail, answer twice; the run must end.

The storm plays a lossy world. `validate()` runs after every event; when the faults end, the run must
end too, with every client at most once in each committed set. A failure names its seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from drive import Drive, ready

from fedmq.protocol import events as ev
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.phases import Progress

CLIENTS = [f"client_{k}" for k in range(5)]
STORMS_PER_SEED_GROUP = 60
STEPS = 150


@dataclass
class Worker:
    """What a worker knows; `linked` while the coordinator can hear it and be heard.

    `tasks` are in hand until they are judged; `cancelled` holds those of them that the trainer need not do.
    `answered` holds those whose evaluation or texts are sent; adapters go by the outbox.
    """

    name: str
    clients: list[str]
    linked: bool = False
    tasks: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    outbox: list[str] = field(default_factory=list)
    uploading: set[str] = field(default_factory=set)
    sending: list[ev.Event] = field(default_factory=list)

    def owed(self) -> list[str]:
        """What the trainer is at."""
        return [task for task in self.tasks if task not in self.outbox and task not in self.answered]


class Storm:
    """Workers over a lossy world. Work is deterministic: an update's digest is its job's name."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # Each client has two hosts, so that no single loss is final; clients that are trained together have the same.
        together = seed % 3 + 1
        hosts = [(k % 4, (k + 1) % 4) if together == 1 else (k // 3, k // 3 + 2) for k in range(5)]
        self.workers = {f"w{i}": Worker(f"w{i}", [c for k, c in enumerate(CLIENTS) if i in hosts[k]]) for i in range(4)}
        self.groups: tuple[tuple[str, ...], ...] = ()
        self.committed: dict[int, tuple[str, ...]] = {}
        self.stored: set[str] = set()
        self.asked: list[ev.Event] = []
        self.finish: ev.Finish | None = None
        self.events = 0
        resumed = self.random.random() < 0.3
        if resumed:
            self.stored.add("train/2/client_0")
        self.drive = Drive(
            rounds=5,
            cohort=3,
            quorum=self.random.randint(1, 2),
            expected=5,
            deadline_s=self.random.choice([None, None, 60.0]),
            generates=True,
            together=together,
            progress=Progress(1, self.resumed_in(together), (("client_0", "train/2/client_0"),), (0, 1))
            if resumed
            else Progress(),
        )

    def resumed_in(self, together: int) -> tuple[tuple[str, ...], ...]:
        """The groups that an earlier process had opened its round with."""
        self.groups = tuple(tuple(CLIENTS[k : min(3, k + together)]) for k in range(0, 3, together))
        return self.groups

    # --- the world ---------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        self.events += 1
        for command in self.drive.say(event):
            self.obey(command)

    def obey(self, command: ev.Command) -> None:
        worker = self.workers.get(getattr(command, "worker", ""))
        match command:
            case ev.Dispatch(_, tasks) if worker is not None and worker.linked:
                assert not worker.tasks, f"{worker.name} got {tasks} while it has {worker.tasks}"
                units = tuple(parse_task(task)[0].unit for task in tasks)
                assert all(unit in worker.clients or not unit.startswith("client_") for unit in units)
                assert units in self.groups or not tasks[0].startswith("train"), "a group is trained whole"
                worker.tasks, worker.cancelled = list(tasks), set()
            case ev.CancelTask(_, task) if worker is not None and worker.linked:
                self.dropped(worker, task)
            case ev.Reply(_, task, code) if worker is not None and worker.linked:
                self.judged(worker, task, code)
            case ev.Select(round, eligible, count):
                self.asked.append(ev.Selected(round, tuple(sorted(self.random.sample(eligible, count)))))
            case ev.OpenRound(_, groups):
                self.groups = groups
            case ev.Note(_, text) if "each goes by itself" in text:
                self.groups += tuple((client,) for group in self.groups for client in group)
            case ev.Aggregate(round, clients):
                assert round not in self.committed and len(set(clients)) == len(clients)
                assert len(clients) >= self.drive.state.policy.quorum
                assert {f"train/{round}/{client}" for client in clients} <= self.stored
                self.committed[round] = clients
                self.asked.append(ev.Committed(round))
                for each in self.linked():
                    for task in [t for t in each.outbox if parse_task(t)[0].round <= round]:
                        self.dropped(each, task)
            case ev.Evict() if worker is not None:
                worker.linked = False
            case ev.Finish():
                self.finish = command

    def dropped(self, worker: Worker, task: str) -> None:
        """A task or a finished update is not wanted: the worker says when it is rid of it."""
        if task in worker.outbox or task in worker.answered:
            self.over(worker, task)
            worker.sending.append(ev.TaskFailed(worker.name, task, "CANCELLED", "on request"))
        elif task in worker.tasks:
            worker.cancelled.add(task)

    def over(self, worker: Worker, task: str) -> None:
        worker.tasks = [other for other in worker.tasks if other != task]
        worker.outbox = [other for other in worker.outbox if other != task]
        for some in (worker.answered, worker.uploading, worker.cancelled):
            some.discard(task)

    def judged(self, worker: Worker, task: str, code: str) -> None:
        if code == "UPLOAD":
            worker.uploading |= {task} & set(worker.outbox)
            return
        if task in worker.owed():
            worker.cancelled.add(task)
        else:
            self.over(worker, task)

    def result(self, worker: Worker, task: str) -> None:
        """The worker's result arrives; adapters are offered first."""
        job, _ = parse_task(task)
        if job.kind in ("evaluate", "generate"):
            self.feed(ev.ResultStored(worker.name, task))
            return
        self.feed(ev.ResultOffered(worker.name, task, "/".join(map(str, job))))

    def upload(self, worker: Worker, task: str) -> None:
        """An upload is complete, and durable if it is wanted."""
        job, _ = parse_task(task)
        worker.uploading.discard(task)
        wanted, digest = self.drive.state.wants(task), "/".join(map(str, job))
        if wanted:
            assert digest not in self.stored, f"{digest} would count twice"
            self.stored.add(digest)
        self.feed(ev.ResultStored(worker.name, task, digest))
        if wanted and job.kind == "init":
            self.feed(ev.Committed(0))

    def linked(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.linked]

    # --- what can happen ---------------------------------------------------------------------------

    def join(self, worker: Worker, wiped: bool) -> None:
        """New, or back after a lost link with what it has, or restarted with nothing but its outbox."""
        if wiped:
            worker.tasks, worker.answered, worker.cancelled = [], set(), set()
        worker.linked, worker.uploading, worker.sending = True, set(), []
        outbox, test = tuple(worker.outbox), worker.name in ("w0", "w1")
        finished = [*outbox, *sorted(worker.answered)]
        self.feed(ready(worker.name, *worker.clients, test=test, running=tuple(worker.tasks), outbox=outbox))
        # These left together with the Ready, whatever has been answered to that.
        for task in finished:
            self.result(worker, task)

    def work(self, worker: Worker, fate: str) -> None:
        """The trainer answers for one task. "twice": it had finished before it was told to stop, and says so twice."""
        while worker.sending:
            self.feed(worker.sending.pop(0))
        owed = worker.owed()
        if not owed:
            return
        task, halted = self.random.choice(owed), set(owed) <= worker.cancelled
        if fate != "twice" and (halted or fate == "failed"):
            self.over(worker, task)
            self.feed(ev.TaskFailed(worker.name, task, "CANCELLED" if halted else "OOM", "in words"))
            return
        worker.cancelled.discard(task)
        if parse_task(task)[0].kind in ("evaluate", "generate"):
            worker.answered.add(task)
        else:
            worker.outbox.append(task)
        self.result(worker, task)
        if fate == "twice" and worker.linked:
            self.result(worker, task)

    def deliver(self, worker: Worker) -> None:
        for task in sorted(worker.uploading):
            self.upload(worker, task)

    def answer(self) -> None:
        if self.asked:
            self.feed(self.asked.pop(0))

    def time(self, seconds: float, silent: Worker | None = None) -> None:
        for worker in self.linked():
            if worker is not silent:
                self.feed(ev.Heard(worker.name, next(iter(worker.tasks), None), "working", 1, 2))
        self.drive.now += seconds
        self.feed(ev.Tick())

    def step(self) -> None:
        worker = self.random.choice(list(self.workers.values()))
        match self.random.choices(["join", "leave", "answer", "work", "deliver", "time"], [2, 1, 4, 8, 6, 3])[0]:
            case "join":
                self.join(worker, wiped=self.random.random() < 0.3)
            case "leave":
                worker.linked = False
                if self.random.random() < 0.5:
                    self.feed(ev.WorkerGone(worker.name, "goodbye"))
            case "answer":
                self.answer()
            case "work" if worker.linked:
                self.work(worker, self.random.choices(["done", "failed", "twice"], [8, 1, 1])[0])
            case "deliver" if worker.linked:
                self.deliver(worker)
            case "time":
                seconds = self.random.choices([0.0, 0.1, 3.0, 6.0, 20.0, 150.0], [4, 16, 8, 4, 2, 0.5])[0]
                self.time(seconds, worker if self.random.random() < 0.3 else None)

    def calm(self) -> None:
        """The faults have ended: everybody is there, alive and at work."""
        for _ in range(200):
            if self.finish is not None:
                return
            for worker in self.workers.values():
                if not worker.linked:
                    self.join(worker, wiped=False)
            self.answer()
            for worker in self.linked():
                self.work(worker, "done")
                self.deliver(worker)
            self.time(0.1)


@pytest.mark.parametrize("group", range(8))
def test_every_run_ends(group: int) -> None:
    outcomes, events = {"done": 0, "failed": 0}, 0
    for seed in range(group * STORMS_PER_SEED_GROUP, (group + 1) * STORMS_PER_SEED_GROUP):
        storm = Storm(seed)
        try:
            for _ in range(STEPS):
                storm.step()
            storm.calm()
            assert storm.finish is not None, f"hangs in {storm.drive.state.phase}: {storm.drive.state.roster.jobs}"
            if storm.finish.outcome == "failed":
                assert any(why in storm.finish.reason for why in ("quorum", "are left", "did not come", "no first"))
            else:
                assert max(storm.committed) == 5 and len(storm.committed) in (4, 5)
        except Exception as error:
            error.add_note(f"storm with seed {seed}")
            raise
        outcomes[storm.finish.outcome] += 1
        events += storm.events
    assert outcomes["done"] > 0.6 * STORMS_PER_SEED_GROUP, "most runs survive their storm"
    assert events > 100 * STORMS_PER_SEED_GROUP, "the storms were storms"
