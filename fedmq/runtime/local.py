"""Workers on this machine: separate processes, started by exec, that end with us however we end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmq.errors import ConfigError, DataError, RunError
from fedmq.storage.journal import Journal

log = logging.getLogger("fedmq.local")
#: How often one worker that was killed is started again.
_MAX_RESTARTS = 3


def num_cores() -> int:
    """Cores that this process may use: a container or taskset may leave it less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices() -> list[str]:
    """The CUDA devices of this machine as CUDA_VISIBLE_DEVICES names them, without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20)
    return [str(k) for k in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def num_cuda_devices() -> int:
    """How many they are."""
    return len(cuda_devices())


def default_workers(device: str, clients_per_round: int) -> int:
    """One per CUDA device, else one per core, at most one per client of a round; one for a device that is named."""
    if device.startswith("cuda:"):
        return 1
    devices = num_cuda_devices() if device == "cuda" else 0
    return max(1, min(devices or num_cores(), clients_per_round))


@dataclass
class _Slot:
    name: str
    cuda_device: str | None
    process: subprocess.Popen[bytes] | None = None
    alive_fd: int | None = None
    restarts: int = 0
    log_start: int = 0
    code: int | None = None


@dataclass
class LocalWorkers:
    """`count` worker processes for one coordinator, which tells them where the shards are.

    Attributes:
      connect: the coordinator's address.
      count: processes.
      work_dir: OUTPUT_DIR/workers.
      log_dir: LOG_DIR; worker_K.log in it holds what worker K and its trainer print.
      device: of the config; with "cuda", each worker sees one of the devices.
      num_threads: CPU threads of each; None = cores / count.
      cache_dir: of the base model.
    """

    connect: str
    count: int
    work_dir: Path
    log_dir: Path
    device: str
    num_threads: int | None
    cache_dir: str | None
    _slots: list[_Slot] = field(default_factory=list)

    def start(self) -> None:
        """Start all."""
        devices = cuda_devices() if self.device == "cuda" else []
        for k in range(self.count):
            slot = _Slot(f"worker_{k}", devices[k % len(devices)] if devices else None)
            self._slots.append(slot)
            self._spawn(slot)

    def pids(self) -> list[int]:
        """Process ids of those that run."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    def failure(self) -> str | None:
        """Start again who was killed; the reason when nobody is left.

        Raises:
          ConfigError: a worker cannot use its configuration, data or base: the others cannot either.
        """
        for slot in self._slots:
            if slot.process is None or (code := slot.process.poll()) is None:
                continue
            self._release(slot)
            slot.code = code
            if code == ConfigError.exit_code:
                raise ConfigError(self._last_words(slot))
            if slot.restarts < _MAX_RESTARTS:
                slot.restarts += 1
                log.warning("%s ended with exit code %s: started again", slot.name, code)
                self._spawn(slot)
        if any(slot.process is not None for slot in self._slots):
            return None
        return "; ".join(f"{s.name} ended with exit code {s.code}: {self._last_words(s)}" for s in self._slots)

    def stop(self, patience_s: float = 3.0) -> None:
        """Let them see that we are gone, wait for them to end, then kill who has not."""
        deadline = time.monotonic() + patience_s
        for slot in self._slots:
            self._let_go(slot)
        for slot in self._slots:
            if slot.process is None:
                continue
            try:
                slot.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            self._release(slot)

    def _spawn(self, slot: _Slot) -> None:
        # Nobody ever writes: the worker sees the end of this pipe when our process is gone, even by SIGKILL.
        child_fd, slot.alive_fd = os.pipe()
        threads = self.num_threads or max(1, num_cores() // self.count)
        command = [
            *(sys.executable, "-m", "fedmq", "worker", "--connect", self.connect, "--name", slot.name),
            *("--device", self.device, "--num-threads", str(threads)),
            *("--work-dir", str(self.work_dir / slot.name), "--log-dir", str(self.log_dir)),
            *("--parent-fd", str(child_fd)),
            *(("--cache-dir", self.cache_dir) if self.cache_dir else ()),
        ]
        # "cuda" and not "cuda:K": where torch cannot use the devices that the driver lists, it means the CPU.
        share = {} if slot.cuda_device is None else {"CUDA_VISIBLE_DEVICES": slot.cuda_device}
        # Somebody who tidies up may have removed it since the last one was started.
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with open(self._log(slot), "ab") as output:
            # What an earlier process of this name said explains nothing.
            slot.log_start = output.tell()
            slot.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(child_fd,),
                env=os.environ | share,
                # Ctrl-C comes to us, and we end the workers in order.
                start_new_session=True,
            )
        os.close(child_fd)

    def _release(self, slot: _Slot) -> None:
        slot.process = None
        self._let_go(slot)

    def _let_go(self, slot: _Slot) -> None:
        if slot.alive_fd is not None:
            os.close(slot.alive_fd)
            slot.alive_fd = None

    def _log(self, slot: _Slot) -> Path:
        return self.log_dir / f"{slot.name}.log"

    def _last_words(self, slot: _Slot) -> str:
        try:
            with open(self._log(slot), "rb") as log:
                log.seek(slot.log_start)
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return f"{self._log(slot)}, its log, was removed"
        said = [line.removeprefix("fedmq: ") for line in lines if line.startswith("fedmq: ")]
        return said[-1] if said else f"see {self._log(slot)}"


def run_child(arguments: list[str]) -> str:
    """Run `fedmq ARGUMENTS --parent-fd N` as a process of its own, that ends with us; returns its standard output.

    Raises:
      ConfigError, RunError: with the line that it ended with.
    """
    child_fd, alive_fd = os.pipe()
    try:
        command = [sys.executable, "-m", "fedmq", *arguments, "--parent-fd", str(child_fd)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, pass_fds=(child_fd,))
    finally:
        os.close(child_fd)
        os.close(alive_fd)
    if done.returncode == 0:
        return done.stdout
    said = [line.removeprefix("fedmq: ") for line in done.stderr.splitlines() if line.startswith("fedmq: ")]
    text = said[-1] if said else f"fedmq {arguments[0]} ended with exit code {done.returncode}: {done.stderr[-500:]!r}"
    raise (ConfigError if done.returncode == ConfigError.exit_code else RunError)(text)


def prepare_data(run_dir: Path, journal: Journal, dataset_path: str) -> dict[str, Any]:
    """The run's shards, by `fedmq data partition`; the statistics that it says.

    Raises:
      DataError: the data is another than when the run began, or cannot be used.
    """
    arguments = ["data", "partition", str(run_dir / "config.json"), "--out", str(run_dir / "data"), "--json"]
    statistics: dict[str, Any] = json.loads(run_child(arguments))
    before = journal.get("data")
    if before is not None and json.loads(before)["inputs"] != statistics["inputs"]:
        raise DataError(
            f"{dataset_path} is not what it was when the run in {run_dir} began: "
            "put the old file back, or start anew with --overwrite"
        )
    journal.put(data=json.dumps(statistics))
    return statistics


def end_with_parent(parent_fd: int) -> None:
    """End this process at once, whatever it does, when the one that started it by `run_child` is gone."""

    def watch() -> None:
        os.read(parent_fd, 1)  # nobody writes: it returns at end of file
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
