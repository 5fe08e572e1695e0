"""How near `fedmq run --dry-run` comes: for each variant of the quickstart the plan, then the run, and their ratios.

    python benchmarks/bench_plan.py [--only NAME ...] [--rounds 3] [--json]

A ratio is planned / real. Bytes are those of all rounds; seconds are of a round (as the journal has it, all but the
last) and of the whole command; memory is the peak (VmHWM, Linux) of the coordinator, and of an agent and its trainer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import frame

VARIANTS: dict[str, list[str]] = {
    "quickstart": [],
    "fedex": ["federated.lora_aggregation=fedex"],
    "int4, nesterov, int8 down": [
        "federated.upload_codec=int4",
        "federated.server_optimizer=nesterov",
        "federated.download_codec=int8",
    ],
    "ffa": ["federated.lora_aggregation=ffa"],
    "rolora, topk": ["federated.lora_aggregation=rolora", "federated.upload_codec=topk"],
    "engine hf": ["training.engine=hf"],
    "fedsa": ["federated.lora_aggregation=fedsa"],
    "24 clients, 16 a round": ["federated.num_clients=24", "federated.clients_per_round=16"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only:
        results[name] = compare(VARIANTS[name], arguments.rounds)
        if not arguments.json:
            ratios = results[name]["ratio"]
            print(f"{name:<28}", *(f"{what} {ratio:.2f}" for what, ratio in ratios.items()), sep="  ", flush=True)
    if arguments.json:
        print(json.dumps(frame() | {"rounds": arguments.rounds, "results": results}, indent=2))


def compare(settings: list[str], rounds: int) -> dict[str, Any]:
    """A plan, a run, and planned / real."""
    with tempfile.TemporaryDirectory() as folder:
        sets = [part for s in (*settings, f"federated.num_rounds={rounds}") for part in ("--set", s)]
        command = [
            sys.executable,
            "-m",
            "fedmq",
            "run",
            *sets,
            "--set",
            "log_dir=logs",
            "--output-dir",
            "run",
            "--json",
        ]
        done = subprocess.run([*command, "--dry-run"], cwd=folder, capture_output=True, text=True, check=True)
        plan = json.loads(done.stdout)
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peaks = watch(process)
        seconds = time.monotonic() - started
        metrics = json.loads((Path(folder) / "run" / "training_metrics.json").read_text())["round_metrics"]
    real = {
        "bytes up": sum(row["bytes_up"] for row in metrics),
        "bytes down": sum(row["bytes_down"] for row in metrics),
        "round s": sum(row["seconds"] for row in metrics) / len(metrics),
        "run s": seconds,
        "worker": peaks["worker"],
        "coordinator": peaks["coordinator"],
    }
    planned = {
        "bytes up": plan["run"]["bytes_up"],
        "bytes down": plan["run"]["bytes_down"],
        "round s": plan["round"]["seconds"],
        "run s": plan["run"]["seconds"],
        **{who: plan["memory"][who] for who in ("worker", "coordinator")},
    }
    return {"planned": planned, "real": real, "ratio": {what: planned[what] / real[what] for what in real}}


def watch(process: subprocess.Popen[str]) -> dict[str, int]:
    """Peak bytes of the coordinator, and of the largest agent with its trainer, until the run has ended."""
    peaks: dict[int, int] = {}
    parents: dict[int, int] = {}
    kinds: dict[int, str] = {}
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                status = dict(line.split(":", 1) for line in (path / "status").read_text().splitlines())
                command = (path / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "VmHWM" in status:
                pid = int(path.name)
                parents[pid] = int(status["PPid"])
                peaks[pid] = max(peaks.get(pid, 0), int(status["VmHWM"].split()[0]) * 1024)
                kinds[pid] = "trainer" if "fedmq.runtime.trainer" in command else "agent" if "worker" in command else ""
        time.sleep(0.2)
    agents = [pid for pid, parent in parents.items() if parent == process.pid and kinds[pid] == "agent"]
    trainers = {parent: peaks[pid] for pid, parent in parents.items() if kinds[pid] == "trainer"}
    return {
        "coordinator": peaks[process.pid],
        "worker": max(peaks[agent] + trainers.get(agent, 0) for agent in agents),
    }


if __name__ == "__main__":
    main()
