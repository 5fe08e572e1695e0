"""What aggregation costs at the coordinator: fold against plain numpy, each rule's time and memory, Flower beside it.

    python benchmarks/bench_aggregate.py [--counts 10 100 1000] [--rules median krum ...] [--repeats 5]
        [--flower PYTHON_WITH_FLWR] [--folder DIR] [--json]

Updates are of GPT-2 small's 811,008 LoRA numbers. Fold and numpy take turns within one process, on the same arrays;
rules run in a process each (benchmarks/aggregate_rule.py), whose peak memory is told, in turn with Flower's aggregation
(benchmarks/aggregate_flower.py) in a Python that has it. The first round of a process is told beside later ones, which
find fedavg compiled where numba is installed. Krum, Multi-Krum and Bulyan compare every two updates: with
more than --most-pairwise clients they are left out. Every repeat of a rule must give the same bits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from aggregate_updates import adapter, examples
from measured import frame, summary

from fedmq import build, tensors
from fedmq.algorithms.aggregate import Update, fedavg

HERE = Path(__file__).resolve().parent
PAIRWISE = {"krum", "multi_krum", "bulyan"}
#: Updates in memory for the fold, again and again: more than a processor's caches hold.
POOL = 20
#: Of fedavg and of Flower in one process: the first finds memory fresh, and nothing compiled.
ROUNDS = 6


def fold_and_numpy(count: int, layers: int, repeats: int) -> dict[str, Any]:
    """Seconds of folding `count` updates, and of numpy's multiply and add in place on the same arrays."""
    params = adapter(-1, layers)
    pool = [tensors.subtract(adapter(k, layers), params) for k in range(min(count, POOL))]
    updates = [Update(f"client_{k}", 0, examples(k), 1, pool[k % len(pool)]) for k in range(count)]
    rule, fold, numpy = fedavg(), [], []
    for _ in range(repeats + 1):
        state = rule.init(params)
        started = time.perf_counter()
        for update in updates:
            state = rule.fold(state, update, float(update.num_examples))
        fold.append(time.perf_counter() - started)
        total, scratch = tensors.zeros_like(params), tensors.zeros_like(params)
        started = time.perf_counter()
        for update in updates:
            for name, sums in total.items():
                np.multiply(update.delta[name], float(update.num_examples), out=scratch[name])
                np.add(sums, scratch[name], out=sums)
        numpy.append(time.perf_counter() - started)
    # The first of each found its memory cold.
    fold, numpy = fold[1:], numpy[1:]
    share = [plain / ours for plain, ours in zip(numpy, fold, strict=True)]
    return {"fold_s": summary(fold), "numpy_s": summary(numpy), "share_of_numpy": summary(share)}


def child(python: str, script: str, *arguments: object) -> dict[str, Any]:
    """What one of the scripts beside this one measured."""
    command = [python, str(HERE / script), *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def of_count(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one number of clients."""
    rules = {name: [] for name in arguments.rules if name not in PAIRWISE or count <= arguments.most_pairwise}  # type: dict[str, list[dict[str, Any]]]
    flower: list[dict[str, Any]] = []
    folder = () if arguments.folder is None else (arguments.folder,)
    for _ in range(arguments.repeats):
        for name, found in rules.items():
            rounds = ROUNDS if name == "fedavg" else 1
            found.append(child(sys.executable, "aggregate_rule.py", name, count, arguments.layers, rounds, *folder))
        if arguments.flower is not None and count <= arguments.most_flower:
            flower.append(child(arguments.flower, "aggregate_flower.py", count, arguments.layers, ROUNDS))
    result: dict[str, Any] = {"fold": fold_and_numpy(count, arguments.layers, arguments.repeats), "rules": {}}
    for name, found in rules.items():
        if len({digest for one in found for digest in one["digests"]}) != 1:
            raise SystemExit(f"{name} of {count} clients gave different bits")
        keys = ["seconds", "finish_seconds", "peak_mb"]
        if name == "fedavg":
            keys += ["later_seconds", "later_cpu_seconds", "compile_seconds", "later_peak_mb"]
        result["rules"][name] = {key: summary([one[key] for one in found]) for key in keys}
    if flower:
        measured = [key for key in flower[0] if key != "flwr"]
        result["flower"] = {key: summary([one[key] for one in flower]) for key in measured} | {
            "flwr": flower[0]["flwr"]
        }
    if flower and "fedavg" in rules:
        for key in ("aggregate", "aggregate_arrayrecords"):
            for when in ("seconds", "later_seconds", "later_cpu_seconds"):
                ratios = [a[f"{key}_{when}"] / b[when] for a, b in zip(flower, rules["fedavg"], strict=True)]
                result["flower"][f"{key} / fedavg, {when}"] = summary(ratios)
    return result


def lines(result: dict[str, Any]) -> str:
    """For people."""
    found = [json.dumps({key: result[key] for key in ("host", "load", "commit", "versions")})]
    for count, figures in result["counts"].items():
        found.append(f"{count} clients: fold / numpy {_spread(figures['fold']['share_of_numpy'])}")
        for name, of in figures["rules"].items():
            found += [f"  {name:<17} {key}: {_spread(value)}" for key, value in of.items()]
        for key, value in figures.get("flower", {}).items():
            found.append(f"  flower {key}: {value if isinstance(value, str) else _spread(value)}")
    return "\n".join(found)


def _spread(of: dict[str, float]) -> str:
    return f"{of['median']:.4g} ({of['min']:.4g} to {of['max']:.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rules", nargs="+", choices=list(build.AGGREGATORS), default=list(build.AGGREGATORS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most-pairwise", type=int, default=100)
    parser.add_argument("--flower", metavar="PYTHON", help="a Python that has flwr")
    parser.add_argument("--most-flower", type=int, default=100, help="it holds all updates in memory")
    parser.add_argument("--folder", help="where rows are spilled to; a temporary one otherwise")
    parser.add_argument("--layers", type=int, default=12, help="of GPT-2; fewer for a trial")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts = {str(count): of_count(count, arguments) for count in arguments.counts}
    result = frame(numpy=np.__version__) | {"counts": counts}
    print(json.dumps(result) if arguments.json else lines(result))


if __name__ == "__main__":
    main()
