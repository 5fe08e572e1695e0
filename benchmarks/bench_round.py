"""What a round costs beside training: coordinator and 2 workers as processes, and trainers that compute nothing.

    python benchmarks/bench_round.py [--rounds 30] [--workers 2] [--json]

Every update has bytes of its own (GPT-2 small, c_attn + c_proj, r = 8: 811,008 float32, 3.2 MB). A round's
overhead is its wall time, from selection to commit as run.db has it, less the slowest client's training
(0 here); nothing is evaluated. The floor beside it, measured in the same run
before and after, is a plain ROUTER/DEALER pair of processes that exchange the same bytes with no protocol and no disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

from fedmq.storage.journal import Journal

HERE = Path(__file__).resolve().parent
NBYTES = 811_008 * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    floor = floor_rounds(arguments.rounds, arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        overhead, listening_s, rss_mb = fedmq_rounds(Path(folder), arguments.rounds, arguments.workers)
    floor += floor_rounds(arguments.rounds, arguments.workers)
    result = {
        "overhead_s": summary(overhead),
        "raw_zmq_s": summary(floor),
        "listening_s": listening_s,
        "coordinator_peak_rss_mb": rss_mb,
        "rounds": arguments.rounds,
        "workers": arguments.workers,
        "adapter_nbytes": NBYTES,
        "host": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "pyzmq": zmq.__version__, "libzmq": zmq.zmq_version()},
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{arguments.workers} workers, {arguments.rounds} rounds, {NBYTES / 1e6:.1f} MB each way; milliseconds a round"
    )
    for name in ("overhead_s", "raw_zmq_s"):
        row = result[name]
        print(f"{name:<12} median {1e3 * row['median']:7.1f}  min {1e3 * row['min']:7.1f}  max {1e3 * row['max']:7.1f}")
    print(
        f"coordinator: listens after {result['listening_s']:.2f} s, "
        f"peak memory {result['coordinator_peak_rss_mb']:.0f} MB"
    )


def summary(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def fedmq_rounds(folder: Path, rounds: int, workers: int) -> tuple[list[float], float, float]:
    """(overhead of each round, seconds until the coordinator listens, its peak memory in MB).

    The first round, which starts everything, is left out.
    """
    config = {
        "output_dir": str(folder / "run"),
        "log_dir": str(folder / "logs"),
        "federated": {"num_clients": workers, "clients_per_round": workers, "num_rounds": rounds + 1},
    }
    (folder / "config.json").write_text(json.dumps(config))
    os.environ["FEDMQ_NOOP"] = json.dumps({"clients": [f"client_{k}" for k in range(workers)], "evaluates": False})
    started = time.perf_counter()
    coordinator = subprocess.Popen(
        [sys.executable, "-m", "fedmq", "coordinator", str(folder / "config.json"), "--bind", "tcp://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert coordinator.stdout is not None
    address = next(line.split()[2].rstrip(":") for line in coordinator.stdout if line.startswith("listening on"))
    listening_s = time.perf_counter() - started
    agents = [
        subprocess.Popen([sys.executable, str(HERE / "noop_worker.py"), address, f"w{k}", str(folder / f"w{k}")])
        for k in range(workers)
    ]
    coordinator.stdout.read()
    _, status, usage = os.wait4(coordinator.pid, 0)
    for agent in agents:
        agent.wait(30)
    if status:
        raise SystemExit("the run failed")
    journal = Journal.open(folder / "run" / "run.db", read_only=True)
    rows = journal.rounds(2)
    slowest = {row["round"]: max(u["train_seconds"] for u in journal.updates(row["round"])) for row in rows}
    journal.close()
    overhead = [row["committed_at"] - row["opened_at"] - slowest[row["round"]] for row in rows]
    return overhead, listening_s, usage.ru_maxrss / 1024


def floor_rounds(rounds: int, workers: int) -> list[float]:
    """Seconds that it takes to send the bytes to each worker and to have as many back, over plain ZeroMQ."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    spawn = multiprocessing.get_context("spawn")
    peers = [spawn.Process(target=echo, args=(port,)) for _ in range(workers)]
    for peer in peers:
        peer.start()
    ids = [router.recv_multipart()[0] for _ in peers]
    seconds = []
    for _ in range(rounds):
        payload = os.urandom(NBYTES)
        started = time.perf_counter()
        for peer_id in ids:
            router.send_multipart([peer_id, payload], copy=False)
        for _ in ids:
            router.recv_multipart()
        seconds.append(time.perf_counter() - started)
    for peer_id in ids:
        router.send_multipart([peer_id, b""])
    for peer in peers:
        peer.join()
    context.destroy(linger=0)
    return seconds


def echo(port: int) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"here")
    while payload := dealer.recv():
        dealer.send(payload)
    context.destroy(linger=0)


if __name__ == "__main__":
    main()
