"""Flower's aggregation of the same updates: PYTHON aggregate_flower.py COUNT LAYERS ROUNDS, in a Python that has flwr.

Prints JSON: the seconds of `aggregate` (the NDArrays of flwr.server) and of `aggregate_arrayrecords` (flwr.serverapp,
records made beforehand), in a fresh process and in later rounds. As in Flower, all updates are in memory.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import flwr
from aggregate_updates import adapters
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def timed(name: str, work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds of the first time, and of later ones (the median) with their CPU seconds."""
    spent, cpu = [], []
    for _ in range(rounds):
        started, before = time.perf_counter(), time.process_time()
        work()
        cpu.append(time.process_time() - before)
        spent.append(time.perf_counter() - started)
    later = {"later_seconds": statistics.median(spent[1:]), "later_cpu_seconds": statistics.median(cpu[1:])}
    return {f"{name}_{key}": value for key, value in ({"seconds": spent[0]} | later).items()}


def main() -> None:
    count, layers, rounds = map(int, sys.argv[1:4])
    updates = [(list(local.values()), examples) for examples, local in adapters(count, layers)]
    result = timed("aggregate", lambda: aggregate(updates), rounds)
    records = [
        RecordDict({"arrays": ArrayRecord(values), "metrics": MetricRecord({"num-examples": examples})})
        for values, examples in updates
    ]
    updates.clear()
    result |= timed("aggregate_arrayrecords", lambda: aggregate_arrayrecords(records, "num-examples"), rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"peak_mb": peak, "flwr": flwr.__version__}))


if __name__ == "__main__":
    main()
