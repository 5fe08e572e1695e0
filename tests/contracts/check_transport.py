"""What every transport must keep; run on ZeroMQ and on memory alike.

A pair under test is `(listen, dial)`: `listen()` gives a coordinator's end, `dial(listener)` a worker's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing

from fedmq.transport.base import CoordinatorTransport, Incoming, Plane, Received, WorkerTransport

Listen = Callable[[], CoordinatorTransport]
Dial = Callable[[CoordinatorTransport], WorkerTransport]
CHUNK = bytes(range(256)) * 4096
#: Seconds after which what should have come counts as lost; never waited for when all is well.
PATIENCE_S = 10.0


def check_transport(listen: Listen, dial: Dial) -> None:
    """Run every check, each on new links."""
    for check in (
        _order_and_content,
        _large_payload,
        _planes_are_independent,
        _workers_are_told_apart,
        _unknown_peer,
        _descriptors,
        _timeout,
        _rebuild,
        _dial_data_twice,
        _close_is_final,
    ):
        with ExitStack() as stack:
            listener = stack.enter_context(closing(listen()))
            worker = stack.enter_context(closing(dial(listener)))
            if check is _workers_are_told_apart:
                _workers_are_told_apart(listener, worker, stack.enter_context(closing(dial(listener))))
            else:
                check(listener, worker)


def collect(end: CoordinatorTransport | WorkerTransport, count: int) -> list[Incoming]:
    """The next `count` messages, or fewer when nothing comes any more."""
    messages: list[Incoming] = []
    while len(messages) < count and any(received := end.receive(PATIENCE_S)):
        messages += received.messages
    return messages


def introduce(listener: CoordinatorTransport, worker: WorkerTransport, plane: Plane = "control") -> bytes:
    """Connect, and return the worker's handle on `plane`."""
    if plane == "data":
        worker.dial_data(listener.data_port)
    while not worker.send(plane, b"hello"):
        worker.receive(0.01)
        # Where there are keys, the listener has a part in the handshake.
        assert listener.receive(0.0).messages == []
    (hello,) = collect(listener, 1)
    assert (hello.plane, hello.frames) == (plane, (b"hello",) if plane == "control" else (b"hello", b""))
    return hello.peer


def _order_and_content(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    control, data = (introduce(listener, worker, plane) for plane in ("control", "data"))
    up = [(b"up %d" % i, b"\0payload %d" % i) for i in range(10)]
    for header, payload in up:
        assert worker.send("control", header) and worker.send("data", header, memoryview(payload))
    got = collect(listener, 20)
    assert [m.frames for m in got if m.plane == "control"] == [(header,) for header, _ in up]
    assert [m.frames for m in got if m.plane == "data"] == up
    assert {(m.plane, m.peer) for m in got} == {("control", control), ("data", data)}
    for header, payload in up:
        assert listener.send("control", control, header) and listener.send("data", data, header, memoryview(payload))
    got = collect(worker, 20)
    assert [m.frames for m in got if m.plane == "control"] == [(header,) for header, _ in up]
    assert [m.frames for m in got if m.plane == "data"] == up


def _large_payload(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    peer = introduce(listener, worker, "data")
    assert worker.send("data", b"put", memoryview(CHUNK))
    assert collect(listener, 1)[0].frames == (b"put", CHUNK)
    assert listener.send("data", peer, b"chunk", memoryview(CHUNK))
    assert collect(worker, 1)[0].frames == (b"chunk", CHUNK)


def _planes_are_independent(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    """A data plane that takes no more does not hold up the control plane."""
    introduce(listener, worker)
    introduce(listener, worker, "data")
    sent = 0
    while sent < 64 and worker.send("data", b"%d" % sent, CHUNK):
        sent += 1
    assert worker.send("control", b"heartbeat")
    got = collect(listener, sent + 1)
    assert [m.frames[0] for m in got if m.plane == "data"] == [b"%d" % i for i in range(sent)]
    assert [m.frames for m in got if m.plane == "control"] == [(b"heartbeat",)]


def _workers_are_told_apart(listener: CoordinatorTransport, a: WorkerTransport, b: WorkerTransport) -> None:
    peers = [introduce(listener, worker) for worker in (a, b)]
    assert peers[0] != peers[1]
    for name, worker, peer in ((b"a", a, peers[0]), (b"b", b, peers[1])):
        assert listener.send("control", peer, name)
        assert collect(worker, 1)[0].frames == (name,)


def _unknown_peer(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    peer = introduce(listener, worker)
    assert listener.send("control", b"nobody", b"x") is False
    assert listener.send("data", b"nobody", b"x", b"y") is False
    assert worker.send("data", b"x", b"y") is False, "the data plane was not dialled"
    assert listener.send("control", peer, b"x") is True


def _descriptors(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    introduce(listener, worker)
    reader, writer = os.pipe()
    try:
        for end in (listener, worker):
            assert end.receive(0.0, [reader]).readable == []
            os.write(writer, b"x")
            received = end.receive(PATIENCE_S, [reader])
            assert (received.messages, received.readable) == ([], [reader])
            os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


def _timeout(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    for end in (listener, worker):
        for timeout_s in (0.0, 0.001, -1.0):
            received = end.receive(timeout_s)
            assert (received.messages, received.readable) == ([], [])


def _rebuild(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    """A new link, under a new handle, on every plane that there was; the old handle leads nowhere."""
    old = {plane: introduce(listener, worker, plane) for plane in ("control", "data")}
    worker.rebuild()
    new = {plane: introduce(listener, worker, plane) for plane in ("control", "data")}
    for plane in ("control", "data"):
        assert new[plane] != old[plane]
        assert listener.send(plane, new[plane], b"back")
        assert collect(worker, 1)[0].frames[0] == b"back"
        while listener.send(plane, old[plane], b"lost"):
            listener.receive(0.01)
    assert worker.receive(0.0).messages == []


def _dial_data_twice(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    peer = introduce(listener, worker, "data")
    assert introduce(listener, worker, "data") == peer, "the same link"


def _close_is_final(listener: CoordinatorTransport, worker: WorkerTransport) -> None:
    peer = introduce(listener, worker)
    worker.close()
    worker.close()
    assert worker.send("control", b"x") is False
    assert worker.receive(0.0) == Received([], [])
    while listener.send("control", peer, b"x"):
        listener.receive(0.01)
    listener.close()
    listener.close()
    assert listener.send("control", peer, b"x") is False
    assert listener.receive(0.0) == Received([], [])
