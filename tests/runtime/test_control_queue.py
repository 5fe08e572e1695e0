"""What a worker says when its link takes no more for a while."""

from __future__ import annotations

from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.runtime.control_queue import ControlQueue


class Narrow:
    """A link that takes so many messages, and keeps them."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, list[Any]()

    def send(self, plane: str, header: bytes, payload: bytes = b"") -> bool:
        if len(self.taken) >= self.room:
            return False
        self.taken.append(Codec(m.TO_COORDINATOR).decode(header))
        return True


def test_words_wait_in_their_order_and_none_is_lost() -> None:
    link = Narrow(2)
    queue = ControlQueue(link)  # type: ignore[arg-type]
    words = [m.Goodbye(str(i)) for i in range(6)]
    for word in words[:4]:
        queue.send(word)
    link.room = 3
    queue.send(words[4])
    queue.retry()
    assert link.taken == words[:3]
    link.room = 6
    queue.send(words[5])
    queue.retry()
    assert link.taken == words


def test_a_heartbeat_does_not_wait_and_overtakes_nothing() -> None:
    link, beat, word = Narrow(0), m.Heartbeat(None, "idle", 0, 0), m.Goodbye("x")
    queue = ControlQueue(link)  # type: ignore[arg-type]
    queue.send(beat)
    queue.send(word)
    link.room = 9
    queue.send(beat)
    queue.retry()
    assert link.taken == [word]


def test_a_hello_takes_the_place_of_all_that_waits() -> None:
    link, hello = Narrow(0), m.Hello((m.PROTOCOL_VERSION,), "w0", "ab" * 16)
    queue = ControlQueue(link)  # type: ignore[arg-type]
    queue.send(m.Goodbye("x"))
    link.room = 9
    queue.send(hello)
    queue.retry()
    assert link.taken == [hello]
