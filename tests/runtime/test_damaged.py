"""What an agent does with what is damaged: an update on its own disk, a message on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.frames import Codec
from fedmq.protocol.hand import Hand
from fedmq.protocol.work import InitWork
from fedmq.protocol.worker_state import Link
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport

TASK, CONTENT = "train-1-client_1-0", b"an update"
UP, DOWN = Codec(m.TO_COORDINATOR), Codec(m.TO_WORKER)
TRAINED = link.Trained(TASK, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 10, 100, 5, 2.5, 1.0, "", False)


class Bench:
    """An agent without a trainer whose link is ready, and the coordinator's end of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.listener = folder, MemoryCoordinatorTransport()
        self.worker = MemoryWorkerTransport(self.listener)
        self.worker.dial_data(1)
        self.agent = WorkerAgent(WorkerOptions("w", (), "cpu", folder, folder / "log", None, 1), self.worker)
        self.agent.state.link = Link.READY

    def said(self) -> list[Any]:
        received = self.listener.receive(0.0).messages
        return [UP.decode(each.frames[0]) for each in received if each.plane == "control"]

    def finish(self) -> None:
        """The trainer has made an update."""
        self.agent.state.hand = Hand.of(
            (m.Task(TASK, "cd" * 16, 1, "client_1", 7, None, InitWork("init"), None, None, None),), ()
        )
        (self.folder / "outbox" / f"{TASK}.made").write_bytes(CONTENT)
        self.agent._handle_trainer(TRAINED)

    def close(self) -> None:
        self.worker.close()
        self.listener.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_an_update_damaged_after_its_offer_is_forgotten_and_made_again(bench: Bench) -> None:
    bench.finish()
    assert [type(message) for message in bench.said()] == [m.Offer]
    (bench.folder / "outbox" / f"{TASK}.update").write_bytes(b"!" + CONTENT[1:])
    bench.agent._take("control", (DOWN.encode(m.Verdict(TASK, "UPLOAD", "")),))
    (failed,) = bench.said()
    assert (failed.task, failed.nonce, failed.code) == (TASK, "cd" * 16, "ERROR") and "damaged" in failed.text
    assert list((bench.folder / "outbox").iterdir()) == [] and bench.agent.state.outbox == {}
    assert bench.agent.state.hand.tasks == {}, "it is free"


@pytest.mark.parametrize("plane", ["control", "data"])
def test_a_message_that_is_none_makes_the_links_anew(bench: Bench, plane: str) -> None:
    before = set(bench.listener.links)
    bench.agent._take(plane, (b"junk",) * (1 if plane == "control" else 2))
    assert len(bench.listener.links) == 2 and not before & set(bench.listener.links)
