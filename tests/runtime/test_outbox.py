"""The outbox on disk: an adapter has its name before its offer is there, and nothing else stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.hand import Hand
from fedmq.protocol.work import InitWork
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport

TASK = "train-1-client_1-0"
TRAINED = link.Trained(TASK, "ab" * 32, 3, 10, 100, 5, 2.5, 1.0, "", False)


def start(folder: Path) -> WorkerAgent:
    options = WorkerOptions("w", (), "cpu", folder, folder / "log", None, 1)
    return WorkerAgent(options, MemoryWorkerTransport(MemoryCoordinatorTransport()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "outbox").iterdir())


@pytest.fixture
def agent(tmp_path: Path) -> WorkerAgent:
    """It has a task, and the trainer has written what it made of it."""
    agent = start(tmp_path)
    agent.state.hand = Hand.of(
        (m.Task(TASK, "cd" * 16, 1, "client_1", 7, None, InitWork("init"), None, None, None),), ()
    )
    (tmp_path / "outbox" / f"{TASK}.made").write_bytes(b"new")
    return agent


def test_a_result_is_durable_with_its_offer(agent: WorkerAgent, tmp_path: Path) -> None:
    agent._handle_trainer(TRAINED)
    assert names(tmp_path) == [f"{TASK}.offer", f"{TASK}.update"]
    assert (tmp_path / "outbox" / f"{TASK}.update").read_bytes() == b"new"
    assert start(tmp_path).state.outbox == agent.state.outbox != {}


def test_what_was_made_again_for_its_company_is_thrown_away(agent: WorkerAgent, tmp_path: Path) -> None:
    agent._handle_trainer(TRAINED)
    (tmp_path / "outbox" / f"{TASK}.made").write_bytes(b"again")
    agent._handle_trainer(dataclasses.replace(TRAINED, num_steps=6))
    assert names(tmp_path) == [f"{TASK}.offer", f"{TASK}.update"]
    assert (tmp_path / "outbox" / f"{TASK}.update").read_bytes() == b"new"
    assert agent.state.outbox[TASK].num_steps == 5


def test_what_a_dead_agent_left_half_done_is_no_update(agent: WorkerAgent, tmp_path: Path) -> None:
    assert start(tmp_path).state.outbox == {}
    assert names(tmp_path) == []
    for half in ("offer", "update"):
        agent.state.hand.owed, agent.state.outbox = {TASK}, {}
        (tmp_path / "outbox" / f"{TASK}.made").write_bytes(b"new")
        agent._handle_trainer(TRAINED)
        (tmp_path / "outbox" / f"{TASK}.{half}").unlink()
        assert start(tmp_path).state.outbox == {}
        assert names(tmp_path) == []
