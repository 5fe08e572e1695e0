"""What the gateway process costs: an adapter down and an update up, with keys, with it and without, turn about.

    python benchmarks/bench_gateway.py [--exchanges 100]

Each is 3.2 MB (GPT-2 small, c_attn + c_proj, r = 8) in chunks of 1 MiB, by the
transports alone: no protocol and no disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from fedmq.runtime.memory import keep_freed_memory
from fedmq.transport.allowed import allow
from fedmq.transport.base import CoordinatorTransport
from fedmq.transport.gateway import GatewayCoordinatorTransport
from fedmq.transport.keys import KeyPair, PublicKey, Secret, new_pair
from fedmq.transport.zeromq import CHUNK_NBYTES, ZmqCoordinatorTransport, ZmqWorkerTransport

CONTENT = bytes(811_008 * 4)
CHUNKS = [memoryview(CONTENT)[start : start + CHUNK_NBYTES] for start in range(0, len(CONTENT), CHUNK_NBYTES)]
TRANSPORTS = {"in process": ZmqCoordinatorTransport, "gateway": GatewayCoordinatorTransport}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=100)
    exchanges = parser.parse_args().exchanges
    keep_freed_memory()
    seconds: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        pair, server = new_pair("worker", Path(folder)), new_pair("coordinator", keys)
        allow(pair.public, keys)
        ends = {name: join(make("tcp://127.0.0.1:0", keys), pair, server.public) for name, make in TRANSPORTS.items()}
        for k in range(exchanges + 5):
            for name, (listener, peer, _) in ends.items():
                start = time.perf_counter()
                exchange(listener, peer)
                if k >= 5:
                    seconds[name].append(time.perf_counter() - start)
        for listener, peer, process in ends.values():
            listener.send("data", peer, b"stop")
            process.join()
            listener.close()
    for name, row in seconds.items():
        print(f"{name:<11} median {1e3 * statistics.median(row):5.1f} ms  min {1e3 * min(row):5.1f} ms")
    print(f"ratio of medians {statistics.median(seconds['gateway']) / statistics.median(seconds['in process']):.2f}")


def join(
    listener: CoordinatorTransport, pair: KeyPair, server: PublicKey
) -> tuple[CoordinatorTransport, bytes, multiprocessing.Process]:
    """A worker in a process of its own; the listener, the worker's handle on the data plane, and the process."""
    arguments = (listener.address, listener.data_port, pair.public, pair.secret.z85, server)
    process = multiprocessing.get_context("spawn").Process(target=echo, args=arguments)
    process.start()
    messages = []
    while not messages:
        messages = listener.receive(1.0).messages
    return listener, messages[0].peer, process  # type: ignore[return-value]


def exchange(listener: CoordinatorTransport, peer: bytes) -> None:
    for chunk in CHUNKS:
        assert listener.send("data", peer, b"chunk", chunk)
    got = 0
    while got < len(CONTENT):
        got += sum(len(message.frames[1]) for message in listener.receive(1.0).messages)


def echo(address: str, data_port: int, public: PublicKey, secret: str, server: PublicKey) -> None:
    """The worker: for each adapter that has come, an update goes."""
    keep_freed_memory()
    worker = ZmqWorkerTransport(address, (KeyPair(public, Secret(secret)), server))
    worker.dial_data(data_port)
    while not worker.send("data", b"hello"):
        worker.receive(0.01)
    got = 0
    while True:
        for message in worker.receive(1.0).messages:
            if message.frames[0] == b"stop":
                worker.close()
                return
            got += len(message.frames[1])
            if got == len(CONTENT):
                got = 0
                for chunk in CHUNKS:
                    assert worker.send("data", b"chunk", chunk)


if __name__ == "__main__":
    main()
