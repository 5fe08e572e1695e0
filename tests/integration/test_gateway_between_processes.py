"""The gateway under a run: killed, filled until it is cut off, and left alone by a coordinator that was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from bad_network import IMPATIENT
from conftest import Coordinating, Federation
from curve_peer import CurvePeer, sodium
from impatient_fedmq import ASK_S, HANG_S
from running import FEDMQ, Running, accepted, children, command_line, eventually, fedmq, peak_mb, wait_gone

from fedmq.transport.allowed import allow
from fedmq.transport.keys import new_pair, read_pair, read_public

CLIENTS = ["client_0", "client_1"]
SETTINGS = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 1}
#: Two tensors of so many numbers are 32 MB, four times what may be on its way at once.
LARGE = [1 << 22]


@pytest.fixture
def site(federation: Federation) -> Federation:
    """A folder with keys, in which w0 and w1 may join."""
    new_pair("coordinator", federation.folder / "keys")
    for name in ("w0", "w1"):
        allow(new_pair(name, federation.folder / "workers").public, federation.folder / "keys")
    return federation


def listening(site: Federation, name: str = "run", command: Sequence[object] = FEDMQ) -> Coordinating:
    return site.coordinator(site.config(name, federated=SETTINGS), "--keys", "keys", command=command)


def worker(site: Federation, running: Coordinating, name: str, **options: object) -> Running:
    pair = (site.folder / "workers" / f"{name}.key", site.folder / "keys" / "coordinator.pub")
    return site.noop_worker(running.address, name, keys=pair, **options)


def gateway_of(running: Coordinating) -> int:
    """Its process id, as soon as there is one."""

    def only() -> int | None:
        found = [pid for pid in children(running.process.pid) if "fedmq.transport.gateway_process" in command_line(pid)]
        return found[0] if found else None

    return int(eventually(only, "a gateway"))


def test_killed_in_the_middle_of_an_upload_the_run_ends_as_if_it_had_not_been(site: Federation) -> None:
    undisturbed = listening(site, "undisturbed")
    worker(site, undisturbed, "w0", shape=LARGE)
    digest = undisturbed.ended_well()

    running, gate = listening(site), site.gate("client_0")
    busy = worker(site, running, "w1", shape=LARGE, gates={"client_0": str(gate.path)})
    gate.reached()
    blobs, before = site.folder / "run" / "blobs", gateway_of(running)

    def uploading() -> list[Path]:
        return [part for part in blobs.glob("*.part") if part.stat().st_size]

    gate.open()
    (part,) = eventually(uploading, "an upload on its way")
    busy.signal(signal.SIGSTOP)
    os.kill(before, signal.SIGKILL)
    running.process.wait_line(r"the gateway was killed by SIGKILL: another takes its place")
    assert 0 < part.stat().st_size < 2 * 4 * LARGE[0], "it was in the middle"
    busy.signal(signal.SIGCONT)
    assert running.ended_well() == digest
    assert busy.end() == 0
    assert "connecting anew" not in busy.output(), "it was asked to say hello again, before any silence was noticed"
    assert {row["client"] for row in accepted(site.folder / "run", 1)} == set(CLIENTS)


def test_a_coordinator_that_stands_still_keeps_its_gateway_and_a_gateway_that_does_is_replaced(
    site: Federation,
) -> None:
    undisturbed = listening(site, "undisturbed")
    worker(site, undisturbed, "w0")
    digest = undisturbed.ended_well()

    running, gate = listening(site, command=IMPATIENT), site.gate("client_0")
    busy = worker(site, running, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    pid = gateway_of(running)
    running.process.signal(signal.SIGSTOP)
    threading.Event().wait(1.5 * (ASK_S + HANG_S))
    running.process.signal(signal.SIGCONT)
    os.kill(pid, signal.SIGSTOP)
    running.process.wait_line(r"the gateway gave no answer for 2 s and was killed by SIGKILL: another takes its place")
    wait_gone(pid)
    assert gateway_of(running) != pid
    gate.open()
    assert running.ended_well() == digest
    assert busy.end() == 0
    said = running.process.text("stdout")
    assert said.count("another takes its place") == 1, "the pause of the coordinator killed nobody"


def test_five_that_die_at_once_fail_the_run_and_resume_goes_on(site: Federation) -> None:
    running, gate = listening(site), site.gate("client_0")
    busy = worker(site, running, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    killed: set[int] = set()

    def over() -> bool:
        for pid in set(children(running.process.pid)) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return not running.process.running

    eventually(over, "the end of the run")
    assert running.process.end() == 1
    (line,) = running.process.lines["stderr"]
    assert "the gateway died 5 times in a row within 5 s; the last one was killed by SIGKILL" in line
    assert line.endswith("; --resume goes on with round 1")
    assert json.loads(fedmq("inspect", "run", "--json", cwd=site.folder).stdout)["status"] == "failed"

    again = site.coordinator(site.folder / "run.json", "--resume", "--keys", "keys", port=running.port)
    gate.open()
    again.ended_well()
    assert busy.end() == 0, "it has waited"


def test_an_endless_message_of_an_allowed_worker_is_cut_off_and_the_run_completes(site: Federation) -> None:
    if sodium() is None:
        pytest.skip("libzmq was built without libsodium, which this test needs for a peer of its own")
    running, gate = listening(site), site.gate("client_0")
    busy = worker(site, running, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    pair = read_pair(site.folder / "workers" / "w1.key")
    peer = CurvePeer(running.port, pair, read_public(site.folder / "keys" / "coordinator.pub"))
    # libzmq finds no memory for the next frame, and then ends the gateway or only the link, whichever is asking.
    peer.stream(4000, 4 << 30)
    assert 64 << 20 < peer.sent < 4 << 30, "the limit was reached, and then nothing more was taken"
    assert peak_mb(running.process.pid) < 200
    gate.open()
    running.ended_well()
    assert busy.end() == 0


def test_workers_that_wait_for_a_finished_run_are_told_through_it(site: Federation, free_port: int) -> None:
    config, address = site.config("run", federated=SETTINGS), f"tcp://127.0.0.1:{free_port}"
    first = site.coordinator(config, "--keys", "keys")
    worker(site, first, "w0")
    first.ended_well()
    pair = (site.folder / "workers" / "w0.key", site.folder / "keys" / "coordinator.pub")
    waiting = site.noop_worker(address, "w0", keys=pair)
    resumed = site.fedmq("coordinator", config, "--bind", address, "--keys", "keys", "--resume")
    assert (waiting.end(), resumed.end()) == (6, 0), waiting.output()
    assert "1 told" in resumed.text("stdout")


def test_it_does_not_outlive_a_coordinator_that_is_killed(site: Federation) -> None:
    running = listening(site)
    pid = gateway_of(running)
    limit = re.search(r"Max address space +(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert limit is not None, "it runs with its limit"
    running.process.kill()
    wait_gone(pid)


def test_ctrl_c_to_all_of_them_still_tells_the_workers(site: Federation) -> None:
    running, gate = listening(site), site.gate("client_0")
    busy = worker(site, running, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    pid = gateway_of(running)
    os.kill(pid, signal.SIGINT)
    running.process.signal(signal.SIGINT)
    assert running.process.end() == 130
    assert busy.end() == 130, "it was told that the run pauses"
    wait_gone(pid)
    (line,) = running.process.lines["stderr"]
    assert "interrupted by SIGINT" in line


def test_without_keys_the_sockets_stay_where_they_are(federation: Federation) -> None:
    running = federation.coordinator(federation.config(federated=SETTINGS))
    assert children(running.process.pid) == []


def test_a_folder_without_keys_is_refused_with_one_line(federation: Federation) -> None:
    config = federation.config(federated=SETTINGS)
    command = ("coordinator", config, "--bind", "tcp://127.0.0.1:0", "--keys", "nothing")
    done = fedmq(*command, cwd=federation.folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedmq: ") and "`fedmq keys new coordinator --dir" in line
