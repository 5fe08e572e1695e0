"""A worker agent with the trainer of slow_trainer.py: python slow_worker.py ADDRESS NAME WORK_DIR SHARD."""

from __future__ import annotations

import sys
from pathlib import Path

from fedmq.protocol.trainer_link import Source
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.zeromq import ZmqWorkerTransport


def main() -> None:
    address, name, work_dir, shard = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    work_dir.mkdir(parents=True, exist_ok=True)
    options = WorkerOptions(
        name=name,
        sources=(Source(shard, None),),
        device="cpu",
        work_dir=work_dir,
        log_file=work_dir / "trainer.log",
        log_dir=None,
        num_threads=1,
        trainer=(sys.executable, str(Path(__file__).with_name("slow_trainer.py"))),
    )
    agent = WorkerAgent(options, ZmqWorkerTransport(address, None))
    sys.exit(agent.run().code)


if __name__ == "__main__":
    main()
