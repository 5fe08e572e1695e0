"""Flower's aggregation of the same updates: PYTHON aggregate_flower.py COUNT LAYERS ROUNDS, in a Python that has flwr.

Prints JSON: the seconds of `aggregate` (the NDArrays of flwr.server) and of `aggregate_arrayrecords` (flwr.serverapp,
records made beforehand), in a fresh process and in later rounds. As in Flower, all updates are in memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import flwr
from aggregate_updates import adapters
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    count, layers, rounds = map(int, sys.argv[1:4])
    updates = [(list(local.values()), examples) for examples, local in adapters(count, layers)]
    arrays = [timed(lambda: aggregate(updates)) for _ in range(rounds)]
    records = [
        RecordDict({"arrays": ArrayRecord(values), "metrics": MetricRecord({"num-examples": examples})})
        for values, examples in updates
    ]
    updates.clear()
    recorded = [timed(lambda: aggregate_arrayrecords(records, "num-examples")) for _ in range(rounds)]
    result = {
        "aggregate": arrays,
        "aggregate_arrayrecords": recorded,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "flwr": flwr.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
