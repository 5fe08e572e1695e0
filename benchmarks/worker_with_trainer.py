"""A worker agent with another trainer: python worker_with_trainer.py TRAINER ADDRESS NAME WORK_DIR SHARD."""

from __future__ import annotations

import sys
from pathlib import Path

from fedmq.protocol.trainer_link import Source
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.zeromq import ZmqWorkerTransport


def main() -> None:
    trainer, address, name, work_dir, shard = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5]
    work_dir.mkdir()
    options = WorkerOptions(
        name=name,
        sources=(Source(shard, None),),
        device="cpu",
        work_dir=work_dir,
        log_file=work_dir / "trainer.log",
        log_dir=None,
        num_threads=1,
        trainer=(sys.executable, trainer),
    )
    sys.exit(WorkerAgent(options, ZmqWorkerTransport(address, None)).run().code)


if __name__ == "__main__":
    main()
