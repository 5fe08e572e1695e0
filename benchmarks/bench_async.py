"""Time to the same test loss when one client of four is ten times slower: rounds that wait, and rounds that do not.

    python benchmarks/bench_async.py [--repeats 3] [--slower 10] [--buffers 1 2 3] [--real] [--json]

Four clients of equal random parts of the bundled tweets, each on a worker of its own, one epoch a training. Sync: 6
rounds of all four; its last test loss is the target. Async: versions of a buffer of 1, 2 or 3 updates, twice as many
updates as those. By the virtual clock, so that nothing but the algorithm counts; a version's time is that of its
commit. How often the target was not reached is said; the ratio is of the other times.

--real: the same once with worker processes, the slow one made so by benchmarks/slow_trainer.py (after each step it
sleeps nine times as long as that took), with --texts of each client, and time by the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measured import frame, summary

from fedmq.storage.journal import Journal

CLIENTS, ROUNDS = 4, 6
SLOW = "client_3"
HERE = Path(__file__).parent
#: time of each version since the first round opened, in seconds, and its test loss
Curve = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--slower", type=float, default=10.0)
    parser.add_argument("--buffers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--discount", default="polynomial")
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--texts", type=int, default=None, help="of each client; default: all, 440")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run = real if arguments.real else virtual
    ratios: dict[int, list[float]] = {size: [] for size in arguments.buffers}
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.repeats):
        waited = run(arguments, seed, {"mode": "sync", "num_rounds": ROUNDS})
        target, sync_s = waited[-1][1], waited[-1][0]
        for size in arguments.buffers:
            options = {"buffer_size": size, "discount": arguments.discount, "max_staleness": 1000}
            versions = 2 * ROUNDS * CLIENTS // size
            curve = run(arguments, seed, {"mode": "async", "num_rounds": versions, "async_options": options})
            reached = next((at for at, loss in curve if loss <= target), None)
            if reached is not None:
                ratios[size].append(sync_s / reached)
            best = min(loss for _, loss in curve)
            rows.append(
                {"seed": seed, "buffer": size, "target": target, "sync_s": sync_s, "reached_s": reached, "best": best}
            )
            print(
                f"seed {seed}, buffer {size}: sync {target:.3f} after {sync_s:.0f} s; async "
                + (f"after {reached:.0f} s" if reached else f"never (best {best:.3f} in {curve[-1][0]:.0f} s)"),
                file=sys.stderr,
            )
    summed = {size: summary(found) for size, found in ratios.items() if found}
    if arguments.json:
        print(json.dumps({"frame": frame(), "rows": rows, "sync over async": summed}))
        return
    print(frame())
    for size, found in ratios.items():
        times = f": sync takes {summary(found)['median']:.1f} times as long ({min(found):.1f} to {max(found):.1f})"
        print(f"buffer {size}: target reached {len(found)} of {arguments.repeats} times{times if found else ''}")


def settings(arguments: argparse.Namespace, seed: int, federated: dict[str, Any], folder: Path) -> Path:
    """The config's file."""
    config = {
        "seed": seed,
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "log_dir": str(folder / "logs"),
        "model": {"model_name": "fedmq-tiny", "max_length": 64},
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["c_attn", "c_proj", "c_fc"]},
        "training": {
            "num_epochs": 1,
            "learning_rate": arguments.learning_rate,
            "warmup_steps": 0,
            "num_threads": 1 if arguments.real else 2,
            "max_samples_per_client": arguments.texts,
        },
        "federated": {"num_clients": CLIENTS, "clients_per_round": CLIENTS, "save_client_adapters": False} | federated,
        "data": {"dataset_path": "bundled"},
        "generation": {"prompts": []},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def virtual(arguments: argparse.Namespace, seed: int, federated: dict[str, Any]) -> Curve:
    """By the virtual clock."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ("run", settings(arguments, seed, federated, folder), "--virtual-clock")
        fedmq(*command, "--speed", f"{SLOW}={1 / arguments.slower}")
        return curve_of(folder / "run")


def real(arguments: argparse.Namespace, seed: int, federated: dict[str, Any]) -> Curve:
    """With a worker process for each client, and one that evaluates."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        config = settings(arguments, seed, federated, folder)
        fedmq("data", "partition", config, "--out", folder / "data")
        command = [sys.executable, "-m", "fedmq", "coordinator", str(config), "--bind", "tcp://127.0.0.1:0"]
        coordinator = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert coordinator.stdout is not None
        address = next(line.split()[2].rstrip(":") for line in coordinator.stdout if line.startswith("listening on"))
        shards = {f"client_{k}": folder / "data" / "clients" / f"client_{k}" for k in range(CLIENTS)}
        for worker, shard in (shards | {"evaluator": folder / "data" / "test"}).items():
            slower = arguments.slower if worker == SLOW else 1.0
            script = [sys.executable, str(HERE / "worker_with_trainer.py"), str(HERE / "slow_trainer.py")]
            script += [address, worker, str(folder / worker), str(shard)]
            stack.enter_context(subprocess.Popen(script, env=os.environ | {"FEDMQ_SLOWER": str(slower)}))
        for _ in coordinator.stdout:
            pass
        assert coordinator.wait() == 0, "the run failed"
        return curve_of(folder / "run")


def curve_of(run_dir: Path) -> Curve:
    """When each version was committed, and what it scored."""
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        rounds = journal.rounds(1)
        loss = {row["version"]: row["loss_sum"] / row["num_tokens"] for row in journal.evaluations()}
        return [(row["committed_at"] - rounds[0]["opened_at"], loss[row["round"]]) for row in rounds]
    finally:
        journal.close()


def fedmq(*arguments: object) -> None:
    """A command to its end."""
    command = [sys.executable, "-m", "fedmq", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
