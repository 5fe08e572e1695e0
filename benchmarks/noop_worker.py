"""A real worker agent whose trainer computes nothing: python noop_worker.py ADDRESS NAME WORK_DIR [KEY SERVER_KEY]."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from fedmq import crash_points
from fedmq.atomic import disk_failures
from fedmq.protocol.trainer_link import Source
from fedmq.runtime.memory import keep_freed_memory
from fedmq.runtime.worker import WorkerAgent, WorkerOptions
from fedmq.runtime.worker_process import read_keys
from fedmq.transport.zeromq import ZmqWorkerTransport


def main() -> None:
    address, name, work_dir, *keys = sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]
    work_dir.mkdir(parents=True, exist_ok=True)
    options = WorkerOptions(
        name=name,
        sources=(Source("none", None),),
        device="cpu",
        work_dir=work_dir,
        log_file=work_dir / "trainer.log",
        log_dir=None,
        num_threads=1,
        trainer=(sys.executable, str(Path(__file__).with_name("noop_trainer.py"))),
    )
    keep_freed_memory()
    crash_points.arm("worker")
    agent = WorkerAgent(options, ZmqWorkerTransport(address, read_keys(*keys) if keys else None))
    signal.signal(signal.SIGTERM, lambda *_: agent.leave("terminated"))
    with disk_failures(work_dir):
        end = agent.run()
    print(end.reason, file=sys.stderr)
    sys.exit(end.code)


if __name__ == "__main__":
    main()
