"""The stream of messages between a coordinator and its gateway."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from fedmq.transport.channel import Channel, ChannelClosed


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    made = tuple(map(Channel, socket.socketpair()))
    yield made  # type: ignore[misc]
    for end in made:
        end.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A socket, and a channel that reads what is written to it."""
    writer, reader = socket.socketpair()
    channel = Channel(reader)
    yield writer, channel
    writer.close()
    channel.close()


def test_only_what_the_other_end_does_is_a_sign_that_it_lives(ends: tuple[Channel, Channel]) -> None:
    ours, its = ends
    while not ours.unsent:
        ours.put("data", bytes(1 << 16))
        ours.flush()
    ours.flush()
    assert ours.signs == 0, "all that has left is with the system"
    assert its.read(1000)
    ours.flush()
    assert ours.signs == 1
    its.put("control", b"word")
    its.flush()
    assert ours.read(1) == [[b"word"]]
    assert ours.signs == 2


def exchange(sender: Channel, receiver: Channel) -> list[list[bytes]]:
    """Write and read until all has arrived."""
    messages = []
    while True:
        sender.flush()
        messages += receiver.read(1000)
        if not sender.unsent:
            return messages + receiver.read(1000)


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    sent = [[b"%d" % k, b"", bytes([k]) * (1 << k)] for k in range(21)]
    for parts in sent:
        ends[0].put("data", *parts[:-1], memoryview(parts[-1]))
    assert ends[0].queued["data"] > 1 << 21
    assert exchange(*ends) == sent
    assert ends[0].queued == {"control": 0, "data": 0}


def test_control_overtakes_data_but_never_inside_a_message(ends: tuple[Channel, Channel]) -> None:
    chunk = bytes(1 << 20)
    for k in range(4):
        ends[0].put("data", b"%d" % k, chunk)
    ends[0].flush()  # as much as the socket takes, of the first or more
    ends[0].put("control", b"beat")
    order = [parts[0] for parts in exchange(*ends)]
    assert [name for name in order if name != b"beat"] == [b"0", b"1", b"2", b"3"]
    assert order.index(b"beat") < 3


def test_no_more_than_asked_for_and_the_rest_is_known_to_be_here(ends: tuple[Channel, Channel]) -> None:
    for k in range(3):
        ends[0].put("control", b"%d" % k)
    ends[0].flush()
    assert ends[1].read(2) == [[b"0"], [b"1"]] and ends[1].has_message
    assert ends[1].read(2) == [[b"2"]] and not ends[1].has_message
    assert ends[1].read(2) == []


def test_what_was_written_before_the_end_is_read_and_then_the_end(ends: tuple[Channel, Channel]) -> None:
    ends[0].put("control", b"last")
    ends[0].flush()
    ends[0].close()
    assert ends[1].read(9) == [[b"last"]]
    assert ends[1].wait(0.0)
    for use in (lambda: ends[1].read(9), lambda: (ends[1].put("data", b"x"), ends[1].flush())):
        with pytest.raises(ChannelClosed):
            use()


@pytest.mark.parametrize(
    "content", [b"\0", b"\xff", b"\x01" + struct.pack("<I", 1 << 30), b"\x02" + struct.pack("<2I", 1 << 20, (1 << 20))]
)
def test_what_is_no_message_is_refused_before_it_is_read(content: bytes, raw: tuple[socket.socket, Channel]) -> None:
    raw[0].sendall(content)
    with pytest.raises(ChannelClosed, match="no message|too large"):
        raw[1].read(1)
