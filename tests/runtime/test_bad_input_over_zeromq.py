"""B1 to B4, B21 and B26 of docs/bad-input.md over the real transport: anyone's socket beside a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from conducting import DATA_UP, DOWN, UP, Bench, Hand
from serving import adapter, offer
from zmq.utils.monitor import recv_monitor_message

from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol.frames import MAX_HEADER_NBYTES
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport

HELLO = UP.encode(m.Hello((m.PROTOCOL_VERSION,), "bad", "b" * 32))
BEAT = UP.encode(m.Heartbeat(None, "idle", 0, 0))
Steps = Iterator[None]


class Dialled(Hand):
    """A worker by hand, over ZeroMQ."""

    def __init__(self, listener: ZmqCoordinatorTransport) -> None:
        self.link = ZmqWorkerTransport(listener.address)  # type: ignore[assignment]
        self.link.dial_data(listener.data_port)
        self.name, self.boot, self.clients = "w0", "a" * 32, ("client_1",)
        self.queue: list[Any] = []

    def send(self, plane: Any, *frames: bytes) -> None:
        while not self.link.send(plane, *frames):
            self.link.receive(0.02)

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.send("control", UP.encode(message))

    def until(self, kind: type) -> Iterator[None]:
        """Turns of the coordinator until it has said that; it is left in `answer`."""
        while True:
            received = self.link.receive(0.01).messages
            self.queue += [DOWN.decode(r.frames[0]) for r in received if r.plane == "control"]
            while self.queue:
                self.answer = self.queue.pop(0)
                if isinstance(self.answer, kind):
                    return
            yield

    def bring(self, seed: int) -> Steps:
        """Do the next task."""
        yield from self.until(m.Tasks)
        task, content = self.answer.tasks[0], raw.encode(adapter(seed))
        update = offer(task.task, content, nonce=task.nonce)
        self.say(update)
        yield from self.until(m.Verdict)
        assert self.answer.code == "UPLOAD"
        self.send("data", DATA_UP.encode(m.Put(update.nonce, update.blob.digest, 0)), content)
        yield from self.until(m.Verdict)
        assert self.answer.code == "ACCEPTED"


def resident(what: str) -> int:
    """Bytes of this process in memory now ("VmRSS"), or at most ("VmHWM") since the last time it was asked for now."""
    if what == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) << 10


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, listener=ZmqCoordinatorTransport("tcp://127.0.0.1:0"))
    yield bench
    # Nobody is left who would say goodbye.
    bench.coordinator._links._peers.clear()
    bench.coordinator.close()


@pytest.fixture
def anyone(bench: Bench) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER without limits of its own, connected to the control plane."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(bench.listener.address)
    yield socket
    context.destroy(linger=0)


ROWS: dict[str, tuple[list[list[bytes]], str]] = {
    "B1 no header: an empty frame is the least that ZeroMQ carries": ([[b""]], "MALFORMED"),
    "B2 a frame too many": ([[BEAT, b""]], "MALFORMED"),
    "B3 10^5 empty frames": ([[b""] * 10**5], "MALFORMED"),
    "B4 a header of a byte too many": ([[b"\x80" * (MAX_HEADER_NBYTES + 1)]], "TOO_LARGE"),
    "B21 version 999": ([[BEAT.replace(b"\xa1v\x07", b"\xa1v\xcd\x03\xe7")]], "VERSION"),
    "B26 what only a coordinator says": ([[DOWN.encode(m.HeartbeatAck(0))]], "UNKNOWN_TYPE"),
    "B26 hello twice": ([[HELLO], [HELLO]], ""),
    "B26 a message before hello": ([[BEAT]], ""),
}


@pytest.mark.parametrize("row", ROWS)
def test_over_zeromq(bench: Bench, anyone: zmq.Socket[bytes], row: str) -> None:
    messages, code = ROWS[row]
    honest = Dialled(bench.listener)

    def script() -> Steps:
        honest.ready()
        yield from honest.bring(0)
        roster, before = bench.coordinator.state.roster, resident("VmRSS")
        workers, journal = sorted(roster.workers), bench.server.journal.updates()
        if "before hello" not in row and "twice" not in row:
            anyone.send(HELLO)
        for frames in messages:
            anyone.send_multipart(frames)
        while not any(code in note for note in bench.view.notes):
            yield
        if not code:
            while not anyone.poll(0):
                yield
            kinds = {"B26 hello twice": m.Welcome, "B26 a message before hello": m.Reject}
            assert isinstance(DOWN.decode(anyone.recv()), kinds[row])
        assert resident("VmHWM") - before < 32 << 20
        assert (sorted(roster.workers), bench.server.journal.updates()) == (workers, journal)
        yield from honest.bring(1)

    bench.play(script())
    honest.link.close()
    assert bench.server.journal.last_committed() == 1


@pytest.mark.parametrize("row", ["B4 a frame beyond MAXMSGSIZE cuts the link, unread"])
def test_a_frame_that_cuts_the_link(bench: Bench, anyone: zmq.Socket[bytes], row: str) -> None:
    honest, cut = Dialled(bench.listener), threading.Event()
    monitor = anyone.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def script() -> Steps:
        honest.ready()
        yield from honest.bring(0)
        before = resident("VmRSS")
        anyone.send(b"\x80" * (MAX_HEADER_NBYTES + 34))
        while not monitor.poll(0):
            yield
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
        cut.set()
        assert resident("VmHWM") - before < 32 << 20
        yield from honest.bring(1)

    bench.play(script())
    honest.link.close()
    anyone.disable_monitor()
    monitor.close()
    assert cut.is_set() and bench.server.journal.last_committed() == 1
    assert not any("refused" in note for note in bench.view.notes), "nothing of it was read"


def flood(socket: zmq.Socket[bytes], count: int) -> Callable[[], None]:
    def send() -> None:
        for _ in range(count):
            socket.send(BEAT)

    return send


@pytest.mark.parametrize("row", ["T11 a flood on control beside a worker at work"])
def test_a_flood_beside_a_worker(bench: Bench, anyone: zmq.Socket[bytes], row: str) -> None:
    honest = Dialled(bench.listener)
    thread = threading.Thread(target=flood(anyone, 20_000), daemon=True)

    def script() -> Steps:
        honest.ready()
        yield from honest.bring(0)
        anyone.send(HELLO)
        thread.start()
        while not bench.coordinator._reception.guard._strikes.of("bad").codes:
            yield
        before = resident("VmRSS")
        yield from honest.bring(1)
        assert resident("VmHWM") - before < 32 << 20

    bench.play(script())
    honest.link.close()
    thread.join(20)
    assert bench.server.journal.last_committed() == 1
