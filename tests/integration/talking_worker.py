"""The no-op worker, which says on stdout what it sends and hears, as `fedmq worker` does in its log."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

if __name__ == "__main__":
    import noop_worker

    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    noop_worker.main()
