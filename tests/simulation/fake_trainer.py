"""Stands for `TrainerProcess` and the process behind it: the same messages, after virtual time.

What it makes of a task depends on the task's seed, the adapter it starts from, and the clients that it is trained
together with; on nothing else, as with the real one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmq import atomic
from fedmq.codec import raw
from fedmq.codec.update import update_codec
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.work import EvaluateWork, InitWork, TrainWork
from fedmq.runtime.child import HALT_GRACE_S
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.packing import pack
from fedmq.runtime.pipe import PipeClosed
from fedmq.tensors import NamedTensors

if TYPE_CHECKING:
    from worker_host import WorkerHost

ADAPTER_CONFIG = '{"peft_type": "LORA"}'


def sha256(text: str) -> str:
    """In hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def num_examples(client: str) -> int:
    """Clients weigh differently."""
    return 10 + int(client.removeprefix("client_"))


def first_adapter(seed: int) -> NamedTensors:
    """Two small tensors."""
    draw = np.random.default_rng(seed)
    return {f"lora_{name}": draw.normal(size=shape).astype(np.float32) for name, shape in (("A", (4, 6)), ("B", 9))}


def trained(task: m.Task, start: NamedTensors, company: list[str]) -> NamedTensors:
    """The update of one client."""
    draw = np.random.default_rng([task.seed, int(sha256(" ".join(company))[:8], 16)])
    return {name: (value + draw.normal(size=value.shape)).astype(np.float32) for name, value in start.items()}


class FakeTrainer:
    """One trainer of one worker."""

    def __init__(self, host: WorkerHost) -> None:
        self._host, self._said, self._waiting = host, deque[Any](), deque[link.Begin]()
        self.fd = host.cluster.network.next_handle()
        #: tasks that it has not answered for
        self.open: list[m.Task] = []
        #: tasks that its agent waits for; others are only done again for the company's sake
        self._owed: set[str] = set()
        self.loaded = self.gone = False
        self._setup: link.Setup | None = None
        self._halting = False
        self._halted_at: float | None = None
        #: virtual time before which it does nothing
        self.hung_until = 0.0

    # --- what the agent sees -------------------------------------------------------------------

    def send(self, message: Any) -> None:
        match message:
            case _ if self.gone:
                return
            case link.Setup():
                self._setup = message
                self._later(0.5, 3.0, self._load)
            case link.Halt():
                self._halting = True
            case link.Begin():
                self._host.cluster.witness.begun(self._host.name, [t.task for t in self.open if t.task in self._owed])
                self._owed = self._host.owed()
                self._halting = False
                self._waiting.append(message)
                if not self.open:
                    self._begin()

    def halt(self) -> None:
        self.send(link.Halt())
        self._halted_at = self._halted_at or self._host.cluster.now

    def enforce_halt(self, wanted: bool) -> bool:
        if not wanted:
            self._halted_at = None
        if self._halted_at is None or self._host.cluster.now - self._halted_at < HALT_GRACE_S:
            return False
        self._halted_at = None
        self.die()
        return True

    def receive(self) -> list[Any]:
        if self.gone and not self._said:
            raise PipeClosed
        messages, self._said = list(self._said), deque()
        return messages

    def end(self) -> str:
        self.gone = True
        return "was killed by SIGKILL"

    @property
    def readable(self) -> bool:
        """Whether it has something to say, or is gone."""
        return bool(self._said) or self.gone

    # --- what it does --------------------------------------------------------------------------

    def die(self) -> None:
        """A fault in a step, or want of memory."""
        self.gone = True
        self._host.wake()

    def _later(self, least_s: float, most_s: float, what: Any, *args: Any) -> None:
        def go_on() -> None:
            if self.gone or self._host.trainer is not self:
                return
            if (hung_s := self.hung_until - self._host.cluster.now) > 0:
                self._host.cluster.after(hung_s, go_on)
                return
            self._host.run(what, *args)

        self._host.cluster.after(self._host.cluster.dice.uniform(least_s, most_s), go_on)

    def _say(self, message: Any) -> None:
        self._said.append(message)
        self._host.wake()

    def _load(self) -> None:
        self.loaded = True
        clients = (m.HostedClient(c, num_examples(c), 100, 0, sha256(c)) for c in self._host.clients)
        evaluates = self._host.evaluates_test
        self._say(link.Loaded(tuple(clients), evaluates, sha256("base"), 1, 2, "cpu"))

    def _begin(self) -> None:
        begin = self._waiting.popleft()
        self.open = list(begin.tasks)
        self._later(0.2, 2.0, self._half_way, begin)

    def _half_way(self, begin: link.Begin) -> None:
        if not self._stopped():
            self._say(link.Stepped(1, 2))
            self._later(0.2, 3.0, self._made, begin)

    def _made(self, begin: link.Begin) -> None:
        try:
            content = b"" if begin.adapter is None else Path(begin.adapter).read_bytes()
            start = raw.decode(content, raw.read_spec(content)) if content else {}
        except FileNotFoundError:
            self._fail("ERROR", "no adapter")
            return
        if not self._stopped():
            self._answer(begin, start, list(zip(begin.tasks, begin.results, strict=True)))

    def _answer(self, begin: link.Begin, start: NamedTensors, left: list[tuple[m.Task, str]]) -> None:
        (task, path), *others = left
        if self._host.cluster.chance(self._host.cluster.failing, "task fails"):
            answer: Any = link.Failed(task.task, "OOM", "out of memory")
        else:
            answer = self._result(begin, task, path, start)
        self.open.remove(task)
        self._say(answer)
        if others:
            self._later(0.0, 0.3, self._answer, begin, start, others)
        elif self._waiting:
            self._begin()

    def _result(self, begin: link.Begin, task: m.Task, path: str, start: NamedTensors) -> Any:
        match task.work:
            case InitWork():
                return link.Trained(
                    task.task, *_write(path, first_adapter(task.seed)), 0, 0, 0, 0.0, 0.0, ADAPTER_CONFIG, False
                )
            case TrainWork():
                company = sorted(str(other.client) for other in begin.tasks)
                assert self._setup is not None
                codec, states = update_codec(self._setup.spec.upload), ClientStates(Path(self._setup.state_dir))
                digest, nbytes, lost = pack(task, trained(task, start, company), start, {}, codec, states, Path(path))
                # It is of the update, so a selection that follows losses depends on all that came before.
                loss = 1 + int(digest[:8], 16) / 2**32
                examples = num_examples(str(task.client))
                return link.Trained(task.task, digest, nbytes, examples, 100, 5, loss, 1.0, "", lost)
            case EvaluateWork():
                return link.Scored(task.task, float(sum(value.sum() for value in start.values())), 100, 10, 1.0)
        return link.Texts(task.task, tuple(f"{prompt} and so on" for prompt in task.work.generation.prompts))

    def _stopped(self) -> bool:
        if self._halting:
            self._fail("CANCELLED", "on request")
        return self._halting

    def _fail(self, code: Any, text: str) -> None:
        failed, self.open = self.open, []
        for task in failed:
            self._say(link.Failed(task.task, code, text))
        if self._waiting:
            self._begin()


def _write(path: str, adapter: NamedTensors) -> tuple[str, int]:
    content = raw.encode(adapter)
    atomic.write_bytes(Path(path), content)
    return hashlib.sha256(content).hexdigest(), len(content)
