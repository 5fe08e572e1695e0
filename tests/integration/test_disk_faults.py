"""A disk that is full, read-only or broken: one line, exit code 1, no half state, and --resume goes on."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation, digest_once
from failing_disk import KEPT, NUMBERS
from running import REPO, Gate, Running, accepted, fedmq, wait_accepted

from fedmq.storage.journal import Journal

SETTINGS = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 2}
#: two tensors of 64 KiB
SHAPE = [128, 128]
FAILING = REPO / "tests" / "failing_disk.py"
TALKING_WORKER = Path(__file__).with_name("talking_worker.py")
Mount = Callable[[str, str], Path]


def undisturbed_digest(factory: pytest.TempPathFactory, shape: list[int]) -> str:
    """Of a run whose adapters have this shape, twice."""

    def run(federation: Federation) -> str:
        coordinator = federation.coordinator(federation.config(federated=SETTINGS))
        federation.noop_worker(coordinator.address, "w0", shape=shape)
        return coordinator.ended_well()

    return digest_once(factory, f"disk-faults-{len(shape)}", run)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return undisturbed_digest(tmp_path_factory, SHAPE)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs of some size on a folder of the test; again with other options to change it."""
    mounted: list[Path] = []

    def make(name: str, options: str) -> Path:
        folder = tmp_path / name
        again = folder in mounted
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", ("remount," if again else "") + options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        if not again:
            mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all the space but `leave` bytes."""
    room = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * (room.f_bavail * room.f_frsize - leave))
    return ballast


def failed_in_one_line(process: Running, *words: str) -> None:
    assert process.end() == 1, process.output()
    (line,) = [line for line in process.lines["stderr"] if line]
    assert all(word in line for word in ("--resume", "nothing that was accepted is lost", *words)), line


def first_of_two(
    federation: Federation, config: Path, shape: list[int]
) -> tuple[Running, Path, list[dict[str, Any]], Gate]:
    """The update of client_1 is accepted, that of client_0 comes when its gate is opened."""
    gates = {client: federation.gate(client) for client in ("client_0", "client_1")}
    coordinator, run = federation.coordinator(config), federation.folder / "run"
    federation.noop_worker(coordinator.address, "w0", shape=shape, gates={c: str(g.path) for c, g in gates.items()})
    gates["client_1"].open()
    wait_accepted(run, 1, {"client_1"})
    gates["client_0"].reached()
    return coordinator.process, run, accepted(run, 1), gates["client_0"]


def goes_on(federation: Federation, config: Path, shape: list[int], before: list[dict[str, Any]]) -> str:
    """With another worker, and with what was accepted before; the digest."""
    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w1", shape=shape)
    digest = again.ended_well()
    assert [row for row in accepted(federation.folder / "run", 1) if row["client"] == "client_1"] == before
    return digest


#: The update takes 33 pages, its row 3 of the journal's log, of which a view of the run takes one a second.
PAGE = os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize(
    ("leave", "failed", "clients", "state"),
    [
        pytest.param(0, "", ["client_1"], "open", id="at-once"),
        pytest.param(25 * PAGE, "run", ["client_1"], "open", id="update"),
        pytest.param(35 * PAGE, "run.db", ["client_1"], "open", id="row"),
        pytest.param(50 * PAGE, "run", ["client_0", "client_1"], "frozen", id="model"),
    ],
)
@pytest.mark.skipif(PAGE != 4096, reason="the numbers are for pages of 4 KiB")
def test_a_full_disk_ends_the_coordinator_and_resume_goes_on(
    federation: Federation, mount: Mount, undisturbed: str, leave: int, failed: str, clients: list[str], state: str
) -> None:
    """Full when one update of round 1 is accepted; with some space left, in the middle of what follows."""
    disk = mount("run", "size=4m")
    config = federation.config(federated=SETTINGS)
    process, run, before, gate = first_of_two(federation, config, SHAPE)
    ballast = fill(disk, leave)
    gate.open()
    failed_in_one_line(process, f"{failed} cannot be written", "full" if failed == "run.db" else "")
    assert [row["client"] for row in accepted(run, 1)] == clients
    with closing(Journal.open(run / "run.db", read_only=True)) as journal:
        assert journal.rounds()[-1]["state"] == state
    ballast.unlink()
    assert goes_on(federation, config, SHAPE, before) == undisturbed


@pytest.mark.parametrize(
    ("shape", "failed"),
    [
        pytest.param(SHAPE, r"/run cannot be written \(File too large\)", id="update"),
        pytest.param([64], r"/run/run\.db cannot be written \(disk I/O error\)", id="row"),
    ],
)
def test_a_file_that_may_not_grow_ends_the_coordinator_and_resume_goes_on(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory, shape: list[int], failed: str
) -> None:
    """RLIMIT_FSIZE, in the middle of round 1: below the size of an update, or as long as the journal's log is."""
    config = federation.config(federated=SETTINGS)
    process, run, before, gate = first_of_two(federation, config, shape)
    limit = 25 * PAGE if shape == SHAPE else (run / "run.db-wal").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, most))
    gate.open()
    failed_in_one_line(process)
    assert re.search(failed, process.text("stderr")), process.output()
    assert accepted(run, 1) == before
    assert goes_on(federation, config, shape, before) == undisturbed_digest(tmp_path_factory, shape)


def test_a_read_only_disk_is_refused_and_changes_nothing(
    federation: Federation, mount: Mount, undisturbed: str
) -> None:
    mount("run", "size=4m")
    config, gate = federation.config(federated=SETTINGS), federation.gate("client_0")
    coordinator = federation.coordinator(config)
    worker = federation.noop_worker(coordinator.address, "w0", shape=SHAPE, gates={"client_0": str(gate.path)})
    gate.reached()
    coordinator.process.signal(signal.SIGINT)
    assert coordinator.process.end() == 130
    worker.end()
    mount("run", "ro")
    done = fedmq("coordinator", config, "--bind", "tcp://127.0.0.1:0", "--resume", cwd=federation.folder)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "Read-only" in done.stderr
    mount("run", "rw")
    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w1", shape=SHAPE)
    assert again.ended_well() == undisturbed


#: What fails, and how the coordinator says it: any fsync, and SQLite's own calls on the journal's log.
ANY = ("fsync,fdatasync", "", r"\((Input/output|disk I/O) error\)")
SYNCED, WRITTEN = (
    (calls, "run.db-wal", r"run\.db cannot be \w+ \(disk I/O error\)") for calls in ("fsync,fdatasync", "pwrite64")
)


def acknowledged(worker: Running) -> set[str]:
    """Jobs whose results a `talking_worker` heard to be accepted."""
    return set(re.findall(r"^(\S+)-\d+: accepted$", worker.text("stdout"), re.MULTILINE))


def durable(folder: Path) -> set[str]:
    """Jobs whose results the journal of this folder holds; none where there is no journal."""
    if not (folder / "run.db").exists():
        return set()
    with closing(Journal.open(folder / "run.db", read_only=True)) as journal:
        jobs = {f"train-{row['started']}-{row['client']}" for row in journal.updates()}
        jobs |= {f"generate-{row['version']}-prompts" for row in journal.generations()}
        return jobs if journal.last_committed() is None else {"init-0-adapter", *jobs}


@pytest.mark.skipif(not NUMBERS, reason="the numbers of this processor's system calls are not known here")
@pytest.mark.parametrize(
    ("failing", "first"),
    [
        *((ANY, first) for first in ("1", "13", "40", "add_update:1", "add_update:4")),
        *((failing, first) for failing in (SYNCED, WRITTEN) for first in ("1", "add_update:3")),
        *(pytest.param(ANY, str(first), marks=pytest.mark.nightly) for first in (2, 3, 4, 6, 9, 20, 30, 50, 60)),
        *(pytest.param(ANY, first, marks=pytest.mark.nightly) for first in ("freeze_round:1", "set_bias:1")),
        *(
            pytest.param(failing, first, marks=pytest.mark.nightly)
            for failing in (SYNCED, WRITTEN)
            for first in ("10", "25", "45", "add_update:1", "add_update:5", "commit_round:1", "commit_round:3")
        ),
    ],
    ids=lambda value: value[0] + value[1] if isinstance(value, tuple) else value,
)
def test_an_error_of_the_disk_is_final_and_nothing_is_acknowledged_after_it(
    federation: Federation, undisturbed: str, failing: tuple[str, str, str], first: str, free_port: int
) -> None:
    """Of what the worker hears to be accepted, all had become durable before the disk began to fail."""
    config, address = federation.config(federated=SETTINGS), f"tcp://127.0.0.1:{free_port}"
    calls, files, words = failing
    broken = federation.start(sys.executable, FAILING, first, calls, files, "coordinator", config, "--bind", address)
    worker = federation.noop_worker(address, "w0", program=TALKING_WORKER, shape=SHAPE)
    assert broken.end() == 1, broken.output()
    (line,) = [line for line in broken.lines["stderr"] if line]
    assert re.search(words, line), line
    if "w0 joined" in broken.text("stdout"):
        worker.end()  # it was told to, after all else that it was told
    heard, kept = acknowledged(worker), durable(federation.folder / KEPT)
    assert heard <= kept
    assert first != "add_update:3" or any(job.startswith("train-1-") for job in heard), worker.output()
    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w1", shape=SHAPE)
    assert again.ended_well() == undisturbed
    assert kept <= durable(federation.folder / "run")


def test_a_worker_whose_disk_is_full_says_so_and_its_client_goes_to_another(
    federation: Federation, mount: Mount, undisturbed: str
) -> None:
    disk = mount("noop", "size=4m")
    config, gate = federation.config(federated=SETTINGS), federation.gate("client_0")
    coordinator = federation.coordinator(config)
    worker = federation.noop_worker(coordinator.address, "w0", shape=SHAPE, gates={"client_0": str(gate.path)})
    gate.reached()
    ballast = fill(disk, 0)
    gate.open()
    assert worker.end() == 1
    assert "cannot be written (No space left on device)" in worker.text("stderr")
    coordinator.process.wait_line("w0 lost .*No space left on device.*: train client_0 goes to another worker")
    ballast.unlink()
    federation.noop_worker(coordinator.address, "w0", shape=SHAPE)
    assert coordinator.ended_well() == undisturbed


def test_no_run_begins_where_nothing_can_be_written(federation: Federation, mount: Mount) -> None:
    disk = mount("run", "size=1m")
    fill(disk, 0)
    config = federation.config(federated=SETTINGS)
    done = fedmq("coordinator", config, "--bind", "tcp://127.0.0.1:0", cwd=federation.folder)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "cannot be written" in done.stderr
    assert {path.name for path in disk.iterdir()} <= {"ballast", ".lock"}
