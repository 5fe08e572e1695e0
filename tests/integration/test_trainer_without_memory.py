"""A real trainer that may take no more memory (RLIMIT_AS): its task is done by another."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest
from conftest import Federation
from running import Running, children, command_line, digest_of, here


def trainer_of(pid: int) -> int:
    """The process in which a worker's agent trains."""
    (trainer,) = [child for child in children(pid) if "trainer" in command_line(child)]
    return trainer


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not enforced, or there is no /proc")
def test_its_task_fails_at_once_and_another_does_it(finished: Path, federation: Federation) -> None:
    """It has none even for what its agent says, which it must hear, or for what it answers."""
    folder = federation.folder
    settings = json.loads((finished / "config.json").read_text())
    parts = here("data", "partition", finished / "config.json", "--out", folder / "parts", cwd=folder)
    assert parts.returncode == 0, parts.stderr
    config = federation.config(**{k: v for k, v in settings.items() if k not in ("output_dir", "log_dir")})
    coordinator = federation.coordinator(config)

    def worker(name: str, *shards: str, **env: str) -> Running:
        data = (option for shard in shards for option in ("--data", folder / "parts" / shard))
        command = ("worker", "--connect", coordinator.address, "--name", name, "--device", "cpu", "--num-threads", 1)
        started = federation.fedmq(*command, *data, **env)
        coordinator.process.wait_line(f"{name} joined")
        return started

    # It has loaded all that it needs, and waits for the third client. A thread's arena would be a reserve of addresses,
    # so there is one for all, and every larger block is asked of the kernel.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "16384"}
    poor = worker("poor", "clients/client_0", "clients/client_1", **malloc)
    trainer = trainer_of(poor.pid)
    pages = int(Path(f"/proc/{trainer}/statm").read_text().split()[0])
    _, most = resource.prlimit(trainer, resource.RLIMIT_AS)
    resource.prlimit(trainer, resource.RLIMIT_AS, (pages * resource.getpagesize(), most))
    rich = worker("rich", "clients/client_0", "clients/client_1", "clients/client_2", "test")
    assert coordinator.ended_well() == digest_of(finished / "run")
    coordinator.process.wait_line(r"failed on poor \((OOM: out of memory|CRASHED: the trainer ended with exit code 1)")
    assert (poor.end(), rich.end()) == (0, 0)
