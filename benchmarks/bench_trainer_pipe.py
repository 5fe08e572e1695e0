"""What it costs that training happens in a child process: one task and its answer over the pipes.

    python benchmarks/bench_trainer_pipe.py [--tasks 2000] [--json]

The trainer is benchmarks/noop_trainer.py; the task is an evaluation, which it answers at once and without a file.
Beside it: reading a file of a GPT-2-sized adapter (3.2 MB), which is how tensors pass between the two, and the peak
memory of this process, which imports what an agent imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fedmq.runtime.worker_process  # noqa: F401 - what an agent imports, for its memory
from fedmq.protocol import trainer_link as link
from fedmq.protocol.messages import Task
from fedmq.protocol.work import EvaluateWork
from fedmq.runtime.child import TrainerProcess

HERE = Path(__file__).resolve().parent
NBYTES = 811_008 * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["FEDMQ_NOOP"] = json.dumps({"shape": [64]})
    task = Task("evaluate-1-test-0", "0" * 32, 1, None, 1, None, EvaluateWork("evaluate", "test", 8), None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TrainerProcess([sys.executable, str(HERE / "noop_trainer.py")], 1, Path(folder, "trainer.log"))

        def ask() -> None:
            trainer.send(link.Begin((task,), None, None, ("unused",)))
            trainer.receive()

        ask()  # by the answer it has started
        tasks = [seconds(ask) for _ in range(arguments.tasks)]
        trainer.end()
        adapter = Path(folder, "adapter")
        adapter.write_bytes(os.urandom(NBYTES))
        reads = [seconds(adapter.read_bytes) for _ in range(100)]
    result = {
        "task_s": {"median": statistics.median(tasks), "max": max(tasks)},
        "read_s": {"median": statistics.median(reads), "max": max(reads)},
        "agent_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{key}: {value}" for key, value in result.items()))


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
