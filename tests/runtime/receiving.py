"""The worker's end of the data plane, with the coordinator's end in the hands of a test."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.recipe import CodecSpec
from fedmq.runtime.transfers import Transfers
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport

CHUNK, CREDITS = 1000, 3
CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TASK = "train-1-client_1-0"
ASKED, ANSWERED = Codec(m.DATA_TO_COORDINATOR), Codec(m.DATA_TO_WORKER)


class Bench:
    """Transfers under test, against a coordinator's end that a test plays by hand."""

    def __init__(self, folder: Path, codec: str = "fp32") -> None:
        self.codec = CodecSpec(codec, None, None, None)
        self.folder, self.now = folder, 0.0
        self.listener = MemoryCoordinatorTransport()
        self.restart()

    def restart(self) -> None:
        """As a new process of the worker, on a new link."""
        if hasattr(self, "worker"):
            self.transfers.close()
            self.worker.close()
        self.worker = MemoryWorkerTransport(self.listener)
        self.worker.dial_data(1)
        self.transfers = Transfers(self.worker, self.folder / "blobs", lambda: self.now)
        self.transfers.configure(CHUNK, CREDITS, self.codec)
        #: by digest, what this process was sent, headers among it
        self.nbytes: Counter[str] = Counter()

    def tick(self, now: float) -> None:
        """So late it is."""
        self.now = now
        self.transfers.tick()

    def asked(self) -> list[tuple[Any, bytes]]:
        """What the worker sent since the last look."""
        received = self.listener.receive(0.0).messages
        return [(ASKED.decode(incoming.frames[0]), incoming.frames[1]) for incoming in received]

    def offsets(self) -> list[int]:
        """The offsets of it."""
        return [message.offset for message, _ in self.asked()]

    def answer(self, message: Any, payload: bytes = b"") -> None:
        header = ANSWERED.encode(message)
        if isinstance(message, m.Chunk):
            self.nbytes[message.digest] += len(header) + len(payload)
        self.transfers.take((header, payload))

    def chunk(self, offset: int, damaged: bool = False) -> None:
        piece = CONTENT[offset : offset + CHUNK]
        self.answer(m.Chunk(DIGEST, offset, len(CONTENT)), b"!" * len(piece) if damaged else piece)

    def close(self) -> None:
        self.transfers.close()
        self.worker.close()
        self.listener.close()

    def download(self) -> None:
        """Answer every request, to the end."""
        while offsets := self.offsets():
            for offset in offsets:
                self.chunk(offset)
