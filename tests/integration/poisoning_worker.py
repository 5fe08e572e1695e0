"""A real worker agent whose trainer lies: python poisoning_worker.py ADDRESS WORK_DIR SHARD."""

from __future__ import annotations

import sys
from pathlib import Path

from fedmq.protocol.trainer_link import Source
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.transport.zeromq import ZmqWorkerTransport


def main() -> None:
    address, work_dir, shard = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    work_dir.mkdir()
    options = WorkerOptions(
        name="mallory",
        sources=(Source(shard, None),),
        device="cpu",
        work_dir=work_dir,
        log_file=work_dir / "trainer.log",
        log_dir=None,
        num_threads=1,
        trainer=(sys.executable, str(Path(__file__).with_name("poisoning_trainer.py"))),
    )
    end = WorkerAgent(options, ZmqWorkerTransport(address, None)).run()
    sys.exit(end.code)


if __name__ == "__main__":
    main()
