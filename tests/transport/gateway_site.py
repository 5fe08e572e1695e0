"""A gateway, a worker that speaks to it, and what has come to the coordinator's end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from curve_door import Listening

from fedmq.transport.gateway import GatewayCoordinatorTransport
from fedmq.transport.zeromq import ZmqWorkerTransport

PATIENCE_S = 60.0


class Site(Listening):
    """A coordinator's end with a gateway, and `north`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.worker = ZmqWorkerTransport(self.listener.address, (self.north, self.pair.public))

    def listen(self) -> GatewayCoordinatorTransport:
        return GatewayCoordinatorTransport("tcp://127.0.0.1:0", self.keys)

    @property
    def pid(self) -> int:
        """Of the gateway; 0 between two."""
        child = self.listener._child
        return 0 if child is None else child._process.pid

    def until(self, done: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        super().until(done, patience_s)

    def knock(self, text: bytes) -> bytes:
        """Send on the control plane as soon as there is a link; the worker's handle."""

        def sent() -> bool:
            self.worker.receive(0.0)
            return self.worker.send("control", text)

        self.until(sent)
        self.until(lambda: self.messages and self.messages[-1].frames == (text,))
        return self.messages[-1].peer

    def come_back(self, text: bytes) -> bytes:
        """The same after a link was lost: what is sent before the worker has noticed that is lost too."""

        def arrived() -> bool:
            self.worker.receive(0.0)
            self.worker.send("control", text)
            return self.messages[-1].frames == (text,)

        self.until(arrived)
        return self.messages[-1].peer

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the gateway, and wait until that is noticed."""
        self.signal(signal.SIGKILL)
        seen = len(self.notices)
        self.until(lambda: len(self.notices) > seen)

    def close(self) -> None:
        self.worker.close()
        self.listener.close()
