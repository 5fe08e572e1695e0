"""What faults cost, and what it costs to survive them: coordinator and workers as processes, trainers that only wait.

    python benchmarks/bench_faults.py [--repeats 5] [--json]

(a) A worker (agent and trainer) is killed in the middle of a training of 2 s while another one is idle. Time lost is
    the round's time, selection to commit, less that of a round in which nobody is killed, less the work that is done
    again: the round's time up to the kill. Goal: under 2 s.
(b) The coordinator is killed among many short rounds and started again with --resume, at once and after it was away
    for a while: from that start to the first training that begins. Its worker lives all the time. Goal: under 3 s.
(c) Rounds of one second (2 workers, adapters of 3.2 MB) as they are, and with nothing made durable in any process:
    how much longer a round takes, beside one second. Goal: under 5 %.

Every repeat runs each of them once, one after another.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
from measured import frame, summary
from noop_run import HERE, NoopRun, wait_for

TRAINING_S, KILLED_AFTER_S = 2.0, 1.0
#: small, where bytes are not what is measured
SHAPE = [64]
DURABLE, VOLATILE = "durable", "nothing durable"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--away", type=float, nargs="+", default=[0.0, 10.0], help="seconds that a coordinator is away")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of one second in each run of (c)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = frame(pyzmq=zmq.__version__, libzmq=zmq.zmq_version())
    undisturbed, lost, seconds = [], [], {DURABLE: [], VOLATILE: []}
    back: dict[float, list[float]] = {away: [] for away in arguments.away}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(arguments.repeats):
            folder = Path(scratch) / str(repeat)
            folder.mkdir()
            undisturbed.append(round_with_a_kill(folder / "undisturbed", kill=False))
            lost.append(round_with_a_kill(folder / "killed", kill=True) - undisturbed[-1])
            for away in arguments.away:
                back[away].append(coordinator_back(folder / f"away_{away:g}", away))
            for name in seconds:
                seconds[name].append(one_second_rounds(folder / name, arguments.rounds, name == DURABLE))
    shares = [100 * (durable - volatile) for durable, volatile in zip(*seconds.values(), strict=True)]
    result = {
        "killed_worker": {
            "undisturbed_round_s": summary(undisturbed),
            "lost_s": summary(lost),
            "goal_s": 2.0,
            "reached": statistics.median(lost) < 2.0,
        },
        "killed_coordinator": [
            {"away_s": away, "back_s": summary(found), "goal_s": 3.0, "reached": statistics.median(found) < 3.0}
            for away, found in back.items()
        ],
        "durability": {
            "round_s": {name: summary(found) for name, found in seconds.items()},
            "percent_of_a_second": summary(shares),
            "goal_percent": 5.0,
            "reached": statistics.median(shares) < 5.0,
        },
        "repeats": arguments.repeats,
        **started,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    print(f"{result['host']}, load {result['load']:.1f}, commit {result['commit']}, {result['time']}")
    print(f"{result['versions']}, {result['repeats']} repeats")
    killed = result["killed_worker"]
    line("a killed worker: lost, s", killed["lost_s"], f"under {killed['goal_s']:g}", killed["reached"])
    for row in result["killed_coordinator"]:
        what = f"a coordinator away for {row['away_s']:g} s: first task after, s"
        line(what, row["back_s"], f"under {row['goal_s']:g}", row["reached"])
    durability = result["durability"]
    goal = f"under {durability['goal_percent']:g}"
    line("durability: percent of a second", durability["percent_of_a_second"], goal, durability["reached"])
    for name, found in durability["round_s"].items():
        line(f"  a round, {name}, s", found)
    line("  a round of (a) without a kill, s", killed["undisturbed_round_s"])


def line(what: str, found: dict[str, float], goal: str = "", reached: bool = False) -> None:
    verdict = f"  goal {goal}: {'reached' if reached else 'NOT reached'}" if goal else ""
    print(f"{what:<52} median {found['median']:7.3f}  min {found['min']:7.3f}  max {found['max']:7.3f}{verdict}")


def round_with_a_kill(folder: Path, kill: bool) -> float:
    """Seconds of one round of two clients, less what it had taken when the worker of the first was killed."""
    # client_1 is hosted by the second worker only, so nothing begins before both are there; then that one is idle.
    with NoopRun(folder, {"num_clients": 2, "clients_per_round": 2, "num_rounds": 1}) as run:
        coordinator, address = run.coordinator()
        seconds = {"client_0": TRAINING_S}
        first = run.worker(address, "w0", clients=["client_0"], seconds=seconds, shape=SHAPE)
        run.worker(address, "w1", clients=["client_0", "client_1"], seconds=seconds, shape=SHAPE)
        (began,) = wait_for(lambda: [at for at, task in run.begun() if task.startswith("train-1-client_0")])
        time.sleep(max(0.0, began + KILLED_AFTER_S - time.time()))
        killed_at = time.time()
        if kill:
            run.kill(first)
        run.ended_well(coordinator)
        (row,) = run.rounds()[1:]
        return row["committed_at"] - (killed_at if kill else row["opened_at"])


def coordinator_back(folder: Path, away_s: float) -> float:
    """Seconds from a coordinator's second start to the first training that begins after it."""
    with NoopRun(folder, {"num_clients": 1, "clients_per_round": 1, "num_rounds": 100_000}) as run:
        coordinator, address = run.coordinator()
        run.worker(address, "w0", clients=["client_0"], shape=SHAPE)
        wait_for(lambda: len(run.begun()) >= 5)
        run.kill(coordinator)
        time.sleep(away_s)
        started_at = time.time()
        run.coordinator(address, "--resume")
        return wait_for(lambda: [at for at, _ in run.begun() if at > started_at])[0] - started_at


def one_second_rounds(folder: Path, rounds: int, durable: bool) -> float:
    """Median seconds of a round in which each of two workers trains for a second; the first round is left out."""
    launcher = ("-m",) if durable else (str(HERE / "without_fsync.py"),)
    with NoopRun(folder, {"num_clients": 2, "clients_per_round": 2, "num_rounds": rounds + 1}, launcher) as run:
        coordinator, address = run.coordinator()
        for k in range(2):
            client = f"client_{k}"
            run.worker(address, f"w{k}", clients=[client], seconds={client: 1.0}, durable=durable)
        run.ended_well(coordinator)
        return statistics.median(row["committed_at"] - row["opened_at"] for row in run.rounds()[2:])


if __name__ == "__main__":
    main()
