"""One rule on COUNT updates, as the coordinator folds them: python aggregate_rule.py RULE COUNT LAYERS. Prints JSON.

The time is that of the differences to the global adapter, the folds and the end; making the updates is not in it. What
a rule keeps goes where a run keeps it: 256 MiB in memory, the rest in a file of a temporary folder.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from aggregate_updates import adapter, adapters

from fedmq import build, tensors
from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.rows import kept_in
from fedmq.storage.spill import SpilledRows


def main() -> None:
    name, count, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    params = tensors.astype(adapter(-1, layers), np.float64)
    memory, spent = tensors.zeros_like(params), 0.0
    with tempfile.TemporaryDirectory(dir=sys.argv[4] if len(sys.argv) > 4 else None) as folder:
        rule = kept_in(build.aggregator(name), lambda: SpilledRows(Path(folder)))
        state = rule.init(params)
        for client, (examples, local) in enumerate(adapters(count, layers)):
            started = time.perf_counter()
            update = Update(f"client_{client:04d}", 0, examples, 1, tensors.subtract(local, params, out=memory))
            state = rule.fold(state, update, float(examples))
            spent += time.perf_counter() - started
        started = time.perf_counter()
        found = rule.finish(state)
        finish = time.perf_counter() - started
    result = {
        "seconds": spent + finish,
        "finish_seconds": finish,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "digest": tensors.digest(found),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
