"""Memory of several workers on one host: what each adds to its interpreter and libraries.

    python benchmarks/bench_worker_memory.py [--workers 8] [--base FOLDER] [--json]

Each process loads the base as a worker's trainer does and trains one step (LoRA r = 8 on c_attn, 8 texts). What is
shared through the page cache counts once: the figure is the sum over all processes of the proportional set size (PSS in
/proc/PID/smaps_rollup, Linux) with all of them alive, less that sum before the base was loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from texts_and_bases import add_arguments, base_folder, load_model, load_texts, lora_spec, machine, recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = base_folder(arguments, Path(scratch))
        command = [sys.executable, __file__, "--child", "--base", base, "--texts", arguments.texts]
        command += ["--tokenizer", arguments.tokenizer, "--threads", "1"]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(arguments.workers)
        ]
        measured = {}
        for stage in ("interpreters and libraries", "with base, after a step"):
            for one in children:
                say(one.stdin, "go")
            for one in children:
                assert one.stdout is not None and one.stdout.readline() == "ready\n"
            measured[stage] = sum(pss_mb(one.pid) for one in children)
        for one in children:
            say(one.stdin, "end")
            one.wait()
    before, after = measured.values()
    result = {"pss_mb": measured, "added_mb": after - before, "workers": arguments.workers, **machine(1)}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}; {arguments.workers} workers; MB in all")
    for stage, value in measured.items():
        print(f"{stage:30} {value:8.0f}")
    print(f"{'added':30} {after - before:8.0f}")


def child(arguments: argparse.Namespace) -> None:
    """Says "ready" at each stage, and waits."""
    import torch

    import fedmq.runtime.trainer  # noqa: F401  what a worker's trainer imports
    from fedmq.learning.train import train

    torch.set_num_threads(1)
    texts = load_texts(arguments)[:8]  # a worker gets them as shards, without pandas
    sys.stdin.readline()
    print("ready", flush=True)
    sys.stdin.readline()
    lm = load_model(arguments.base, lora_spec())
    train(lm, texts, recipe(precision="auto"), seed=1)
    print("ready", flush=True)
    sys.stdin.readline()


def pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Pss:"))
    return int(line.split()[1]) / 1000


def say(stream: IO[str] | None, line: str) -> None:
    assert stream is not None
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    main()
