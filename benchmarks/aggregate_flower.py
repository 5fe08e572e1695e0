"""Flower's aggregation of the same updates: PYTHON aggregate_flower.py COUNT LAYERS, with a Python that has flwr.

Prints JSON: the seconds of `aggregate` (the NDArrays of flwr.server) and of `aggregate_arrayrecords` (flwr.serverapp,
records made beforehand). As in Flower, all updates are in memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import flwr
from aggregate_updates import adapters
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def main() -> None:
    count, layers = int(sys.argv[1]), int(sys.argv[2])
    updates = [(list(local.values()), examples) for examples, local in adapters(count, layers)]
    started = time.perf_counter()
    aggregate(updates)
    arrays = time.perf_counter() - started
    records = [
        RecordDict({"arrays": ArrayRecord(values), "metrics": MetricRecord({"num-examples": examples})})
        for values, examples in updates
    ]
    del updates
    started = time.perf_counter()
    aggregate_arrayrecords(records, "num-examples")
    result = {
        "aggregate_s": arrays,
        "aggregate_arrayrecords_s": time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "flwr": flwr.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
