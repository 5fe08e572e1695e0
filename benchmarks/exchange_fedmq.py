"""One exchange by fedmq's transfer code: its transports, and Intake at one end, Transfers at the other.

Started by bench_transport.py. A task goes to each worker, which fetches the task's adapter; with `up` it offers an
update that it has on disk and sends it when that is granted. An update is over when it is durable and checked at the
coordinator, an adapter when its worker has checked it and says that it is idle. Nothing is trained or judged.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from exchange import Exchange, finish, peak_mb, play, start_workers

from fedmq import build
from fedmq.config import get_default_config
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.work import TrainWork
from fedmq.recipe import Part
from fedmq.runtime.intake import Intake
from fedmq.runtime.memory import keep_freed_memory
from fedmq.runtime.transfers import Transfers
from fedmq.runtime.worker_process import read_keys
from fedmq.storage.blobs import BlobStore
from fedmq.transport.allowed import allow
from fedmq.transport.base import CoordinatorTransport
from fedmq.transport.keys import new_pair
from fedmq.transport.zeromq import ZmqWorkerTransport

PIECE_NBYTES = 1 << 20
IDLE = m.Heartbeat(None, "idle", 0, 0)


class Served(NamedTuple):
    """As much of a FederatedServer as an Intake needs."""

    blobs: BlobStore


class First32:
    """In the place of SHA-256: the first 32 bytes, which are random here. It costs nothing."""

    def __init__(self, content: bytes = b"") -> None:
        self._first = bytes(content[:32])

    def update(self, content: bytes) -> None:
        self._first = self._first or bytes(content[:32])

    def hexdigest(self) -> str:
        return self._first.hex()


def leave_out(what: tuple[str, ...]) -> None:
    if "fsync" in what:
        os.fsync = lambda fd: None
    if "sha256" in what:
        hashlib.sha256 = First32  # type: ignore[assignment, misc]


def coordinator(exchange: Exchange, folder_name: str) -> None:
    folder = Path(folder_name)
    if exchange.keys:
        new_pair("coordinator", folder / "keys")
        for k in range(exchange.workers):
            allow(new_pair(f"w{k}", folder / f"w{k}").public, folder / "keys")
    leave_out(exchange.without)
    keep_freed_memory()
    # With keys, its sockets are in a process of their own, as in a run.
    transport = build.transport("tcp://127.0.0.1:0", folder / "keys" if exchange.keys else None)
    blobs = BlobStore(folder / "blobs")
    workers = start_workers(exchange, transport.address, transport.data_port, folder)
    desk = Desk(exchange, transport, Intake(transport, Served(blobs)))  # type: ignore[arg-type]
    before_mb, seconds = 0.0, []
    for round in range(1, exchange.times + 2):
        blob = make_blob(blobs, exchange)
        # As after a commit: this process has made the adapter, and knows it to be right.
        blobs.checked.add(blob.digest)
        desk.wait(lambda: len(desk.idle) == exchange.workers)
        before_mb = before_mb or peak_mb(workers)
        seconds.append(desk.exchange(round, blob))
        for path in blobs.folder.iterdir():
            blobs.remove(path.name)
    finish(workers, seconds, before_mb)
    transport.close()


class Desk:
    """The coordinator's part in it."""

    def __init__(self, exchange: Exchange, transport: CoordinatorTransport, intake: Intake) -> None:
        self._exchange, self._transport, self._intake = exchange, transport, intake
        self._in, self._out = Codec(m.TO_COORDINATOR), Codec(m.TO_WORKER)
        self._training = get_default_config().to_run_spec().training
        self._peers: dict[str, bytes] = {}
        self.idle: set[bytes] = set()
        self.num_stored = 0

    def exchange(self, round: int, blob: m.BlobRef) -> float:
        """Seconds from the first task to the last byte that counts."""
        tasks = [
            m.Task(
                f"train-{round}-client_{k}-0",
                os.urandom(16).hex(),
                round,
                f"client_{k}",
                0,
                blob,
                work,
                None,
                None,
                None,
            )
            for k, work in enumerate([TrainWork("train", self._training, Part("both", None))] * self._exchange.workers)
        ]
        peers, self.idle, self.num_stored = sorted(self.idle), set(), 0
        started = time.perf_counter()
        for task, peer in zip(tasks, peers, strict=True):
            self._say(peer, m.Tasks((task,)))
        self.wait(lambda: (self.num_stored if self._exchange.up else len(self.idle)) == self._exchange.workers)
        return time.perf_counter() - started

    def wait(self, condition: Any) -> None:
        while not condition():
            for incoming in self._transport.receive(0.1).messages:
                if incoming.plane == "control":
                    self._hear(incoming.peer, self._in.decode(incoming.frames[0]))
                    continue
                for stored in self._intake.take(incoming):
                    self.num_stored += 1
                    self._say(self._peers[stored.worker], m.Verdict(stored.offer.task, "ACCEPTED", ""))

    def _hear(self, peer: bytes, message: Any) -> None:
        match message:
            case m.Hello(worker=worker):
                self._peers[worker] = peer
            case m.Heartbeat():
                self.idle.add(peer)
            case m.Offer(task=task):
                (worker,) = [name for name, known in self._peers.items() if known == peer]
                self._intake.offered(worker, message)
                assert self._intake.expect(worker, task) is None
                self._say(peer, m.Verdict(task, "UPLOAD", ""))

    def _say(self, peer: bytes, message: Any) -> None:
        assert self._transport.send("control", peer, self._out.encode(message))


def worker(exchange: Exchange, number: str, address: str, data_port: str, folder_name: str) -> None:
    name, folder = f"w{number}", Path(folder_name)
    pair = (str(folder / name / f"{name}.key"), str(folder / "keys" / "coordinator.pub"))
    leave_out(exchange.without)
    keep_freed_memory()
    transport = ZmqWorkerTransport(address, read_keys(*pair) if exchange.keys else None)
    transport.dial_data(int(data_port))
    outbox = BlobStore(folder / name / "outbox")
    transfers = Transfers(transport, folder / name / "blobs")
    decode, encode = Codec(m.TO_WORKER).decode, Codec(m.TO_COORDINATOR).encode

    def update() -> m.BlobRef | None:
        return make_blob(outbox, exchange) if exchange.up else None

    ready, offer = update(), None
    while not transport.send("control", encode(m.Hello((m.PROTOCOL_VERSION,), name, "0" * 32))):
        transport.receive(0.02)
    transport.send("control", encode(IDLE))
    while True:
        for incoming in transport.receive(0.1).messages:
            if incoming.plane == "data":
                transfers.take(incoming.frames)
                continue
            match decode(incoming.frames[0]):
                case m.Tasks(tasks=(task,)):
                    assert task.adapter is not None
                    transfers.fetch(task.adapter)
                case m.Verdict(code="UPLOAD"):
                    assert offer is not None
                    transfers.upload(offer, outbox.path(offer.blob.digest))
                case m.Verdict(code="ACCEPTED"):
                    assert offer is not None
                    outbox.remove(offer.blob.digest)
                    ready = update()
                    transport.send("control", encode(IDLE))
        if (fetched := transfers.fetched()) is not None:
            if ready is not None:
                offer = m.Offer(task.task, task.nonce, ready, 1, 1, 1, 1.0, 0.0, fetched[1], "", False)
            transport.send("control", encode(IDLE if offer is None else offer))
        transfers.tick()


def make_blob(store: BlobStore, exchange: Exchange) -> m.BlobRef:
    """Random bytes, never in memory whole: that is to be measured of what comes after."""
    digest, made = hashlib.sha256(), store.folder / ".made"
    with open(made, "wb") as file:
        for offset in range(0, exchange.nbytes, PIECE_NBYTES):
            piece = os.urandom(min(PIECE_NBYTES, exchange.nbytes - offset))
            digest.update(piece)
            file.write(piece)
        file.flush()
        if exchange.up:
            # What is dirty now must not be written by the fsync of what is measured.
            os.fsync(file.fileno())
    os.replace(made, store.path(digest.hexdigest()))
    return m.BlobRef(digest.hexdigest(), exchange.nbytes)


if __name__ == "__main__":
    play({"coordinator": coordinator, "worker": worker})
