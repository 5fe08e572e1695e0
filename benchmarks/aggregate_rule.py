"""One rule on COUNT updates, as the coordinator folds them: aggregate_rule.py RULE COUNT LAYERS ROUNDS. Prints JSON.

The time of a round is that of the folds and of the end; making the updates is not in it. The first round is that of a
fresh process. Before the second what is compiled where numba is installed is compiled, as it is in a run that has
folded some hundred updates. What a rule keeps goes where a run keeps it: 256 MiB in memory, the rest in a file of a
temporary folder.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from aggregate_updates import adapter, adapters

from fedmq import build, tensors
from fedmq.algorithms import weighted_sum
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.algorithms.rows import kept_in
from fedmq.storage.spill import SpilledRows


def played(rule: Aggregator, params: tensors.NamedTensors, count: int, layers: int) -> tuple[float, float, str]:
    """One round: its seconds, those of its end, and what came of it."""
    started = time.perf_counter()
    state = rule.init(params)
    spent = time.perf_counter() - started
    for client, (examples, local) in enumerate(adapters(count, layers)):
        started = time.perf_counter()
        update = Update(f"client_{client:04d}", 0, examples, 1, tensors.Difference(local, params))
        state = rule.fold(state, update, float(examples))
        spent += time.perf_counter() - started
    started = time.perf_counter()
    found = rule.finish(state)
    finish = time.perf_counter() - started
    return spent + finish, finish, tensors.digest(found)


def main() -> None:
    name, count, layers, rounds = sys.argv[1], *map(int, sys.argv[2:5])
    params, compiling = adapter(-1, layers), 0.0
    with tempfile.TemporaryDirectory(dir=sys.argv[5] if len(sys.argv) > 5 else None) as folder:
        rule = kept_in(build.aggregator(name), lambda: SpilledRows(Path(folder)))
        first = played(rule, params, count, layers)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if rounds > 1:
            started = time.perf_counter()
            weighted_sum.compiled()
            compiling = time.perf_counter() - started
        later = [played(rule, params, count, layers) for _ in range(rounds - 1)]
    result = {
        "seconds": first[0],
        "finish_seconds": first[1],
        "later_seconds": [seconds for seconds, _, _ in later],
        "compile_seconds": compiling,
        "peak_mb": peak / 1024,
        "later_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "digests": sorted({digest for _, _, digest in (first, *later)}),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
