"""`python -m fedmq.runtime.trainer_process`: from two descriptors to a trainer that ends with its agent."""

from __future__ import annotations

import argparse
import logging

from fedmq import crash_points
from fedmq.loading import loading
from fedmq.protocol import trainer_link as link
from fedmq.runtime.pipe import Pipe


def main() -> None:
    """Entry point of the child process: two descriptors and the number of threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--read-fd", type=int, required=True)
    parser.add_argument("--write-fd", type=int, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    crash_points.arm("trainer")
    with loading():
        from fedmq.runtime.trainer import serve
    serve(Pipe(arguments.read_fd, arguments.write_fd, link.TO_TRAINER, link.TO_AGENT), arguments.num_threads)


if __name__ == "__main__":
    main()
