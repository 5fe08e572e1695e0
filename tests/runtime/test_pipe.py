"""The pipe between agent and trainer: whole messages, in order, until the other end is gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from fedmq.errors import LocalProtocolError, RemoteProtocolError
from fedmq.protocol import trainer_link as link
from fedmq.runtime.pipe import Pipe, PipeClosed

Ends = tuple[Pipe, Pipe]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """(agent, trainer). A test that closes one end replaces nothing: closing twice is its own business."""
    to_trainer, to_agent = os.pipe(), os.pipe()
    agent = Pipe(to_agent[0], to_trainer[1], link.TO_AGENT, link.TO_TRAINER)
    trainer = Pipe(to_trainer[0], to_agent[1], link.TO_TRAINER, link.TO_AGENT)
    yield agent, trainer
    for fd in (*to_trainer, *to_agent):
        try:
            os.close(fd)
        except OSError:
            continue


def texts(*values: str) -> link.Texts:
    return link.Texts("generate-1-prompts-0", values)


def test_messages_in_both_directions(ends: Ends) -> None:
    agent, trainer = ends
    agent.send(link.Halt())
    assert trainer.receive() == [link.Halt()]
    for step in range(10):
        trainer.send(link.Stepped(step, 10))
    received = agent.receive()
    while len(received) < 10:
        received += agent.receive()
    assert received == [link.Stepped(step, 10) for step in range(10)]


def test_a_message_larger_than_the_pipe(ends: Ends) -> None:
    agent, trainer = ends
    message = texts("x" * 200_000)
    sender = threading.Thread(target=trainer.send, args=(message,))
    sender.start()
    received: list[object] = []
    while not received:
        received = agent.receive()
    sender.join()
    assert received == [message]


def test_a_message_in_pieces(ends: Ends) -> None:
    agent, trainer = ends
    trainer.send(texts("abc"))
    data = os.read(agent.read_fd, 1 << 16)
    trainer.send(link.Stepped(1, 2))
    data += os.read(agent.read_fd, 1 << 16)
    received: list[object] = []
    for byte in data:
        os.write(trainer._write_fd, bytes([byte]))
        received += agent.receive()
    assert received == [texts("abc"), link.Stepped(1, 2)]


def test_the_other_end_is_gone(ends: Ends) -> None:
    agent, trainer = ends
    trainer.send(link.Stepped(1, 2))
    trainer.close()
    assert agent.receive() == [link.Stepped(1, 2)], "what was sent before is read"
    with pytest.raises(PipeClosed):
        agent.receive()
    with pytest.raises(PipeClosed):
        agent.send(link.Halt())


def test_only_messages_of_the_direction(ends: Ends) -> None:
    agent, trainer = ends
    with pytest.raises(LocalProtocolError, match="cannot send stepped here"):
        agent.send(link.Stepped(1, 2))
    os.write(trainer._write_fd, b"\x03\0\0\0xyz")
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        agent.receive()
