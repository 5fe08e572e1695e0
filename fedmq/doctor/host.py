"""Checks of this machine: Python, torch, device, cores, memory, disk, open files."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fedmq.doctor.check import Check
from fedmq.runtime.host_memory import host_memory
from fedmq.runtime.local import num_cores, num_cuda_devices
from fedmq.runtime.open_files import most_open_files

_LIBRARIES = ("torch", "transformers", "peft", "numpy", "pandas", "pyzmq", "pydantic", "safetensors")
#: Of a process that coordinates, before the first worker, and of each worker: sockets, pipes, files of updates.
_OPEN_FILES, _OPEN_FILES_PER_WORKER = 64, 4
#: What is taken for what was not measured: a worker with a small base.
_WORKER_NBYTES = 700 << 20
_GB = 1e9


def python() -> Iterator[Check]:
    """Python, and the libraries that a run needs."""
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    if missing:
        yield Check("libraries", "failed", f"not installed: {', '.join(missing)}", "pip install fedmq installs them")
    else:
        yield Check("libraries", "ok", ", ".join(found))


def device(asked: str | None, probed: dict[str, Any]) -> Iterator[Check]:
    """What `device` means here, and in which number format its engine computes faster.

    Args:
      asked: as in a config; None where there is no config, and nothing was asked for.
      probed: see `fedmq.doctor.probe`.
    """
    if (reason := probed.get("device_error")) is not None:
        yield Check("device", "failed", reason, 'set device to "cpu", or to one that is here', exit_code=2)
    elif "device" not in probed:
        yield Check("device", "failed", f"torch {probed.get('ended')}", "install torch anew, as pytorch.org says")
    else:
        precision = f"faster in {'bfloat16' if probed['faster'] == 'bf16' else 'float32'}"
        listed = num_cuda_devices() if asked in (None, "cuda") else 0
        if probed["device"] == "cpu" and listed:
            found = f"the driver lists {listed} CUDA devices, and torch can use none: it would train on the CPU"
            yield Check("device", "warning", found, 'install a torch for CUDA (pytorch.org), or set device to "cpu"')
        elif probed["note"] and asked is not None:
            yield Check("device", "warning", f"{probed['note']}, {precision}", "nothing to do if that is meant")
        else:
            yield Check("device", "ok", f"{probed['device']}, {precision}")


def cores(workers: int) -> Iterator[Check]:
    """Cores for the local workers and the coordinator."""
    count = num_cores()
    found = f"{count} that this process may use, for {workers} local worker{'s' if workers > 1 else ''}"
    if workers > count and not num_cuda_devices():
        yield Check("cores", "warning", found, f"they share: federated.num_workers {count} (or --workers) is as fast")
    else:
        yield Check("cores", "ok", found)


def memory(workers: int, worker_nbytes: int | None) -> Iterator[Check]:
    """Memory for the local workers.

    Args:
      workers: of a run here.
      worker_nbytes: what one took to load the base; None where none was loaded.
    """
    found = host_memory()
    if found is None:
        yield Check("memory", "warning", "not known: this system has no /proc/meminfo")
        return
    needed = workers * (worker_nbytes or _WORKER_NBYTES)
    what = "loads its base in" if worker_nbytes else "with a small base takes"
    limit = "" if found.limit == "machine" else f" (limit of this container: {found.limit})"
    text = (
        f"{found.available / _GB:.1f} GB free of {found.total / _GB:.1f}{limit}; a worker {what} "
        f"{(worker_nbytes or _WORKER_NBYTES) / _GB:.1f} GB, {workers} here"
    )
    if needed > found.available:
        yield Check("memory", "failed", text, "fewer workers (federated.num_workers, --workers), or more memory")
    elif needed > found.available / 2:
        yield Check("memory", "warning", text, "training takes more than that: fewer workers, or a smaller batch_size")
    else:
        yield Check("memory", "ok", text)


def disk(folder: Path, needed_nbytes: int) -> Iterator[Check]:
    """Room for the run's folder, and whether it can be written.

    Args:
      folder: OUTPUT_DIR; it need not be there.
      needed_nbytes: what the run leaves there.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        yield Check("disk", "failed", f"{place} is a file", "name another output_dir", exit_code=2)
        return
    free = shutil.disk_usage(place).free
    text = f"{free / _GB:.1f} GB free for {folder}; the run leaves some {needed_nbytes / _GB:.2f} GB there"
    if not os.access(place, os.W_OK | os.X_OK):
        yield Check("disk", "failed", f"{place} cannot be written", "name another output_dir", exit_code=2)
    elif free < needed_nbytes:
        yield Check("disk", "failed", text, "free some, or set federated.save_client_adapters to false")
    elif free < 2 * needed_nbytes + _GB:
        yield Check("disk", "warning", text, "a disk that is full ends the run; --resume goes on when there is room")
    else:
        yield Check("disk", "ok", text)


def open_files(workers: int) -> Iterator[Check]:
    """The limit of open files against what that many workers need of `fedmq coordinator`, which raises it."""
    most, needed = most_open_files(), _OPEN_FILES + _OPEN_FILES_PER_WORKER * workers
    text = f"limit {most}, {workers} workers need {needed}"
    if most >= needed:
        yield Check("files", "ok", text)
    else:
        advice = f"a coordinator of fewer workers, or a higher hard limit: `ulimit -Hn {needed}` as administrator"
        yield Check("files", "failed", text, advice)
