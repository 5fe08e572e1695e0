"""Run seeds by hand: `python tests/simulation/simulate.py 1234` prints what happened, `... 0 500` runs that many."""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter

from storm import simulate


def many(first: int, last: int) -> None:
    """Run seeds, and say which fail."""
    happened, begun = Counter[str](), time.perf_counter()
    for seed in range(first, last):
        try:
            happened += simulate(seed).happened
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
    print(f"{(last - first) / (time.perf_counter() - begun):.1f} seeds per second")
    for what, count in sorted(happened.items()):
        print(f"{count:8} {what}")


def main() -> None:
    """One seed with its trace, or a range of them without."""
    seeds = [int(argument) for argument in sys.argv[1:]]
    if len(seeds) == 2:
        many(*seeds)
        return
    try:
        print(f"history {simulate(seeds[0], print).history}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
