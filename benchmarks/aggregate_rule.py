"""One rule on COUNT updates, as the coordinator folds them: aggregate_rule.py RULE COUNT LAYERS ROUNDS. Prints JSON.

The time of a round is that of the folds and of the end; making the updates is not in it. The first round is that of a
fresh process. Before the second what is compiled where numba is installed is compiled, as it is in a run that has
folded some hundred updates. What a rule keeps goes where a run keeps it: 256 MiB in memory, the rest in a file of a
temporary folder.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from aggregate_updates import adapter, adapters

from fedmq import build, tensors
from fedmq.algorithms import weighted_sum
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.algorithms.rows import kept_in
from fedmq.codec import raw
from fedmq.storage.spill import SpilledRows


class Spent(NamedTuple):
    """Seconds of a round, those of its end, CPU seconds of all threads, and what came of it."""

    seconds: float
    finish: float
    cpu: float
    digest: str


def played(rule: Aggregator, params: tensors.NamedTensors, count: int, layers: int) -> Spent:
    """One round. Updates are freed, a page at a time, when no time is taken: Flower's script frees none."""
    recent: deque[Update] = deque(maxlen=weighted_sum.AT_ONCE + 1)
    spent, cpu = -time.perf_counter(), -time.process_time()
    state = rule.init(params)
    spent, cpu = spent + time.perf_counter(), cpu + time.process_time()
    for client, (examples, trained) in enumerate(adapters(count, layers)):
        local = as_read(trained)
        spent, cpu = spent - time.perf_counter(), cpu - time.process_time()
        update = Update(f"client_{client:04d}", 0, examples, 1, tensors.Difference(local, params))
        state = rule.fold(state, update, float(examples))
        spent, cpu = spent + time.perf_counter(), cpu + time.process_time()
        recent.append(update)
    started = time.perf_counter()
    cpu -= time.process_time()
    found = rule.finish(state)
    cpu, finish = cpu + time.process_time(), time.perf_counter() - started
    return Spent(spent + finish, finish, cpu, tensors.digest(found))


def as_read(values: tensors.NamedTensors) -> tensors.NamedTensors:
    """The adapter as the coordinator reads it from its file."""
    return raw.decode(raw.encode(values), tensors.spec(values))


def main() -> None:
    name, count, layers, rounds = sys.argv[1], *map(int, sys.argv[2:5])
    params = as_read(adapter(-1, layers))
    with tempfile.TemporaryDirectory(dir=sys.argv[5] if len(sys.argv) > 5 else None) as folder:
        rule = kept_in(build.aggregator(name), lambda: SpilledRows(Path(folder)))
        first = played(rule, params, count, layers)
        result = {"seconds": first.seconds, "finish_seconds": first.finish, "peak_mb": peak_mb()}
        digests = {first.digest}
        if rounds > 1:
            started = time.perf_counter()
            weighted_sum.compiled()
            result["compile_seconds"] = time.perf_counter() - started
            later = [played(rule, params, count, layers) for _ in range(rounds - 1)]
            result["later_seconds"] = statistics.median(one.seconds for one in later)
            result["later_cpu_seconds"] = statistics.median(one.cpu for one in later)
            result["later_peak_mb"] = peak_mb()
            digests |= {one.digest for one in later}
    print(json.dumps(result | {"digests": sorted(digests)}))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
