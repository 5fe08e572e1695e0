"""What the coordinator remembers of its links has a bound, and who is told when it is all over."""

from __future__ import annotations

import pytest

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.limits import MAX_PEERS
from fedmq.runtime.links import Links
from fedmq.transport.base import Incoming
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport


def hello(links: Links, count: int, worker: str = "w", peer: bytes = b"1", owner: str = "") -> bool:
    said = m.Hello((m.PROTOCOL_VERSION,), worker, f"{count:032x}")
    return links.bind(Incoming("control", peer, (), owner), said)


def test_processes_of_one_name_without_end() -> None:
    links = Links(MemoryCoordinatorTransport())
    for count in range(MAX_PEERS + 100):
        assert hello(links, count) == (count > 0), "each is another process than the one before"
    assert (len(links._boots), len(links._replaced), len(links._peers)) == (1, MAX_PEERS, 1)


def test_names_without_end() -> None:
    links = Links(MemoryCoordinatorTransport())
    for count in range(MAX_PEERS + 100):
        assert not hello(links, count, f"w{count}", b"%d" % count)
    assert len(links._boots) == MAX_PEERS


def test_a_process_that_was_replaced_lately_is_known_for_a_rival() -> None:
    links = Links(MemoryCoordinatorTransport())
    assert [hello(links, count) for count in (0, 1, 0)] == [False, True, True], "nobody has said more than hello"
    links._talking.add("w")
    with pytest.raises(RemoteProtocolError, match="two workers are called w: give each its own --name"):
        hello(links, 1)
    with pytest.raises(RemoteProtocolError, match="two workers have the key of w: give each its own key"):
        hello(links, 1, owner="w")  # whose name is the key's, whatever --name says


def test_only_workers_of_the_run_are_told_that_it_is_over() -> None:
    """One that came for another run goes on waiting for that."""
    listener = MemoryCoordinatorTransport()
    ours, other = MemoryWorkerTransport(listener), MemoryWorkerTransport(listener)
    for worker, name in ((ours, "w0"), (other, "w1")):
        worker.send("control", Codec(m.TO_COORDINATOR).encode(m.Hello((m.PROTOCOL_VERSION,), name, "0" * 32)))
    ours.send("control", Codec(m.TO_COORDINATOR).encode(m.Goodbye("it is over")))
    shutdown = m.Shutdown("done", "over")
    assert Links(listener).dismiss({"w0"}, shutdown, patience_s=0.5) == 1
    (told,) = ours.receive(0.0).messages
    assert Codec(m.TO_WORKER).decode(bytes(told.frames[0])) == shutdown
    assert other.receive(0.0).messages == []
