"""What fedmq's transfers cost beside plain pyzmq: the same bytes between as many processes, on loopback.

    python benchmarks/bench_transport.py [--repeats 5] [--json]

(a) One exchange with 2 and with 10 workers: an adapter of 3.2 MB down to each and an update of 3.2 MB up from each,
    in fedmq durable and checked before it counts. Goal: at most 1.7 times the plain script's time.
(b) 96 MB down to 4 workers, in fedmq written to disk there and checked. Goal: at least 60 % of the plain throughput.
(c) The same on links with keys (CURVE). Goal: at least 70 % of plain pyzmq with CURVE.
(d) The coordinator's peak memory above what it had before the first exchange. Goal: at most twice what one exchange
    moves (once down, if the workers get the same bytes, and up from each), and a constant.

Coordinator and workers are processes. The plain script is in this file: ROUTER and DEALER, one frame each way, no
checks, no disk. "plain, hashed" is the same script with SHA-256 of what arrives, which fedmq's promises need; "plain,
kept" also makes a file of it, at the coordinator with fsync, one after the other: what one would write who acknowledges
nothing before it is durable. fedmq without fsync and without SHA-256 says what of the rest is durability, what hashing.
Every repeat runs each of them once, one after another, in processes of its own; a run counts with its median exchange.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from exchange import Exchange, Measured, finish, measure, peak_mb, play, start_workers
from measured import frame, summary

HERE = Path(__file__).resolve()
ADAPTER_NBYTES = 811_008 * 4
LARGE_NBYTES = 96_000_000
PLAIN, HASHED, KEPT, FEDMQ = "plain pyzmq", "plain pyzmq, hashed", "plain pyzmq, kept", "fedmq"


class Case(NamedTuple):
    """What is measured.

    Attributes:
      exchange: in full.
      goal: the most that fedmq is to take, in times of the plain script.
      left_out: variants of fedmq that say what its parts cost; nothing is durable of what goes down.
    """

    exchange: Exchange
    goal: float
    left_out: dict[str, tuple[str, ...]]

    def sides(self) -> list[tuple[str, Path, Exchange]]:
        """Name, script, and the exchange, in the order in which they run."""
        script, exchange = HERE.with_name("exchange_fedmq.py"), self.exchange
        plain = [(PLAIN, HERE, exchange)]
        plain += [(KEPT, HERE, exchange._replace(checks="kept")), (HASHED, HERE, exchange._replace(checks="hashed"))]
        parts = [(name, script, exchange._replace(without=what)) for name, what in self.left_out.items()]
        return [*plain, (FEDMQ, script, exchange), *parts]


UP = {"fedmq, no fsync": ("fsync",), "fedmq, no fsync, no SHA-256": ("fsync", "sha256")}
DOWN = {"fedmq, no SHA-256": ("sha256",)}
CASES = {
    "2 workers, 3.2 MB each way": Case(Exchange(2, ADAPTER_NBYTES, up=True, keys=False, times=8), 1.7, UP),
    "10 workers, 3.2 MB each way": Case(Exchange(10, ADAPTER_NBYTES, up=True, keys=False, times=8), 1.7, UP),
    "4 workers, 96 MB down": Case(Exchange(4, LARGE_NBYTES, up=False, keys=False, times=2), 1 / 0.6, DOWN),
    "4 workers, 96 MB down, CURVE": Case(Exchange(4, LARGE_NBYTES, up=False, keys=True, times=2), 1 / 0.7, DOWN),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = frame(pyzmq=zmq.__version__, libzmq=zmq.zmq_version())
    runs: dict[tuple[str, str], list[Measured]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(arguments.repeats):
            for name, case in CASES.items():
                for side, script, exchange in case.sides():
                    folder = Path(scratch) / f"{repeat}-{name}-{side}"
                    found = measure(script, exchange, folder)
                    runs.setdefault((name, side), []).append(found)
                    shutil.rmtree(folder)
    cases = {name: result_of(name, runs) for name in CASES}
    result = {"cases": cases, "repeats": arguments.repeats, **started}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}, load {result['load']:.1f}, commit {result['commit']}, {result['time']}")
    print(f"{result['versions']}, {arguments.repeats} repeats; milliseconds an exchange")
    for name, row in cases.items():
        show(name, row)


def result_of(name: str, runs: dict[tuple[str, str], list[Measured]]) -> dict[str, Any]:
    exchange, goal, _ = CASES[name]
    ours, plain = runs[name, FEDMQ], runs[name, PLAIN]
    medians = {side: [statistics.median(run.seconds) for run in runs[name, side]] for side, _, _ in CASES[name].sides()}
    ratios, hashed, kept = (
        [fedmq / raw for fedmq, raw in zip(medians[FEDMQ], medians[side], strict=True)]
        for side in (PLAIN, HASHED, KEPT)
    )
    moved_mb = exchange.nbytes * (1 + exchange.workers * exchange.up) / 1e6
    grown = [run.peak_mb - run.before_mb for run in ours]
    return {
        "seconds": {side: summary(seconds) for side, seconds in medians.items()},
        "times_plain": summary(ratios),
        "times_plain_goal": goal,
        "times_hashed": summary(hashed),
        "times_kept": summary(kept),
        "reached": statistics.median(ratios) <= goal,
        "coordinator_mb": {
            "moved": moved_mb,
            "before": summary([run.before_mb for run in ours]),
            "grown": summary(grown),
            "grown_plain": summary([run.peak_mb - run.before_mb for run in plain]),
            "beyond_twice_moved": summary([mb - 2 * moved_mb for mb in grown]),
        },
    }


def show(name: str, row: dict[str, Any]) -> None:
    exchange = CASES[name].exchange
    total_mb = exchange.nbytes * exchange.workers * (1 + exchange.up) / 1e6
    print(f"\n{name}")
    for side, ms in row["seconds"].items():
        spread = f"median {1e3 * ms['median']:7.1f}  min {1e3 * ms['min']:7.1f}  max {1e3 * ms['max']:7.1f}"
        print(f"  {side:<28} {spread}  {total_mb / ms['median']:6.0f} MB/s")
    ratio, mb = row["times_plain"], row["coordinator_mb"]
    print(
        f"  fedmq / plain: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), or "
        f"{100 / ratio['median']:.0f} % of the throughput; goal at most {row['times_plain_goal']:.2f}: "
        f"{'reached' if row['reached'] else 'NOT reached'}"
    )
    for peer in ("hashed", "kept"):
        same = row[f"times_{peer}"]
        print(f"  fedmq / plain, {peer}: {same['median']:.2f} ({same['min']:.2f} to {same['max']:.2f})")
    print(
        f"  coordinator: {mb['before']['median']:.0f} MB before, {mb['grown']['median']:.0f} MB more at the peak "
        f"(at most {mb['grown']['max']:.0f}; plain {mb['grown_plain']['median']:.0f}); one exchange moves "
        f"{mb['moved']:.0f} MB, so beyond twice that {mb['beyond_twice_moved']['median']:.0f} MB"
    )


# --- the plain script ----------------------------------------------------------------------------


def coordinator(exchange: Exchange, folder: str) -> None:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    public, secret = zmq.curve_keypair()
    if exchange.keys:
        router.curve_server, router.curve_publickey, router.curve_secretkey = True, public, secret
    port = router.bind_to_random_port("tcp://127.0.0.1")
    workers = start_workers(exchange, port, public.decode(), folder)
    peers = [router.recv_multipart()[0] for _ in workers]
    before_mb, seconds = peak_mb(workers), []
    for _ in range(exchange.times + 1):
        payload = os.urandom(exchange.nbytes)
        started = time.perf_counter()
        for peer in peers:
            router.send_multipart([peer, payload], copy=False)
        for _ in workers:
            peer, update = router.recv_multipart()
            if exchange.up:
                check(exchange, update, Path(folder), durable=True)
        seconds.append(time.perf_counter() - started)
    finish(workers, seconds, before_mb)
    context.destroy(linger=0)


def worker(exchange: Exchange, number: str, port: str, server_key: str, folder: str) -> None:
    dealer = zmq.Context().socket(zmq.DEALER)
    if exchange.keys:
        dealer.curve_serverkey = server_key.encode()
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.connect(f"tcp://127.0.0.1:{port}")
    update = os.urandom(exchange.nbytes if exchange.up else 0)
    dealer.send(b"here")
    while True:
        adapter = dealer.recv()
        check(exchange, adapter, Path(folder) / number, durable=False)
        dealer.send(update, copy=False)


def check(exchange: Exchange, content: bytes, folder: Path, durable: bool) -> None:
    """What is to be done with what has arrived: nothing, its SHA-256, or a file of that name."""
    if exchange.checks == "hashed":
        hashlib.sha256(content).hexdigest()
    if exchange.checks != "kept":
        return
    folder.mkdir(exist_ok=True)
    made = folder / ".made"
    with open(made, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(made, folder / hashlib.sha256(content).hexdigest())
    if durable:
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    if sys.argv[1:2] in (["coordinator"], ["worker"]):
        play({"coordinator": coordinator, "worker": worker})
    else:
        main()
