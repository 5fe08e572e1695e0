"""Keys as people use them: made by commands, given to processes, revoked while these run, and across two hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos_proxy import ChaosProxy, Flip
from conftest import Coordinating, Federation, write_tweets
from running import FEDMQ, accepted, keys

CLIENTS = ["client_0", "client_1"]
SETTINGS = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 1}


def new_worker_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A key made on the worker's own host, and the coordinator's public one: what the worker is started with."""
    keys(folder, "new", name, "--dir", folder / f"host_{name}")
    return folder / f"host_{name}" / f"{name}.key", folder / "keys" / "coordinator.pub"


def secrets(folder: Path) -> list[bytes]:
    return [json.loads(path.read_text())["secret"].encode() for path in folder.rglob("*.key")]


@pytest.fixture
def home(federation: Federation) -> Path:
    keys(federation.folder, "new", "coordinator", "--dir", "keys")
    return federation.folder


def coordinator(federation: Federation, **settings: Any) -> Coordinating:
    return federation.coordinator(federation.config(federated=SETTINGS | settings), "--keys", "keys")


def test_who_is_not_allowed_is_told_so_by_the_exit_code_and_whoever_is_trains(
    federation: Federation, home: Path
) -> None:
    north, stranger = new_worker_key(home, "north"), new_worker_key(home, "stranger")
    running = coordinator(federation)
    running.process.wait_line(r"nobody may join yet: `fedmq keys allow NAME\.pub --dir keys`")
    worker = [*FEDMQ, "worker", "--connect", running.address, "--device", "cpu"]
    with_north = ["--key", north[0], "--server-key"]
    refused = {
        "not allowed": (federation.start(*worker, "--key", stranger[0], "--server-key", stranger[1]), 3),
        "no key": (federation.start(*worker), 3),
        "another coordinator": (federation.start(*worker, *with_north, stranger[0].with_suffix(".pub")), 5),
    }
    said = {}
    for why, (process, code) in refused.items():
        assert process.end() == code, process.output()
        (said[why],) = [line for line in process.lines["stderr"] if line.startswith("fedmq: ")]
    assert "does not allow this worker's key (stranger, fingerprint" in said["not allowed"]
    assert "wants keys" in said["no key"]
    assert "has not the secret of the server key" in said["another coordinator"]
    fingerprint = keys(home, "allow", home / "host_north" / "north.pub").split()[-1]
    assert fingerprint in keys(home, "list")
    # Under another name than its key's it is refused, and under that it trains.
    thief = federation.noop_worker(running.address, "south", keys=north)
    assert thief.end() == 1 and "its key is that of north" in thief.text("stderr")
    federation.noop_worker(running.address, "north", keys=north)
    running.ended_well()
    assert {row["worker"] for row in accepted(home / "run", 1)} == {"north"}
    running.process.wait_line(r"a key that is not allowed \(fingerprint [0-9a-f]{16}\) knocked from 127\.0\.0\.1")
    for process in (running.process, *(process for process, _ in refused.values())):
        assert not any(secret.decode() in process.output() for secret in secrets(home))
    for path in [*(home / "run").rglob("*"), *(home / "run_logs").rglob("*"), *(home / "noop").rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets(home)), path


def test_a_revoked_worker_is_dropped_in_the_middle_and_another_does_its_work(
    federation: Federation, home: Path
) -> None:
    pairs = {name: new_worker_key(home, name) for name in ("w0", "w1")}
    for name in pairs:
        keys(home, "allow", home / f"host_{name}" / f"{name}.pub")
    running = coordinator(federation)
    gates = {name: federation.gate(name) for name in pairs}
    workers = {
        name: federation.noop_worker(
            running.address, name, keys=pair, gates=dict.fromkeys(CLIENTS, str(gates[name].path))
        )
        for name, pair in pairs.items()
    }
    for gate in gates.values():
        gate.reached()
    keys(home, "revoke", "w0")
    assert workers["w0"].end() == 3, workers["w0"].output()
    assert "the key of w0 was revoked" in workers["w0"].text("stderr")
    running.process.wait_line(r"w0 lost \(its key was revoked\): train client_\d goes to another worker")
    gates["w1"].open()
    gates["w1"].open()
    running.ended_well()
    assert {row["client"]: row["worker"] for row in accepted(home / "run", 1)} == dict.fromkeys(CLIENTS, "w1")


def listener(seen: bytearray) -> Flip:
    """Damages nothing, and keeps a copy of all that passes."""

    def hear(piece: bytes) -> None:
        seen.extend(piece)

    return hear


def numbers(run_dir: Path, adapter: str) -> bytes:
    """Some numbers out of the middle of an adapter of the run."""
    content = (run_dir / adapter / "adapter_model.safetensors").read_bytes()
    return content[len(content) // 2 :][:64]


@pytest.mark.parametrize("with_keys", [False, True], ids=["in the clear", "with keys"])
def test_who_listens_on_the_network_reads_nothing(federation: Federation, home: Path, with_keys: bool) -> None:
    """On both planes, of which the other one carries the adapters, down and up."""
    pair = new_worker_key(home, "north") if with_keys else ()
    if with_keys:
        keys(home, "allow", home / "host_north" / "north.pub")
    running = federation.coordinator(federation.config(federated=SETTINGS), *(("--keys", "keys") if with_keys else ()))
    network = ChaosProxy(running.process.pid, running.port)
    seen = {line: bytearray() for line in network.lines}
    for line, copy in seen.items():
        network.line(*line).flip = listener(copy)
    try:
        federation.noop_worker(network.address, "north", keys=pair, shape=[10_000])
        running.ended_well()
    finally:
        network.close()
    control, adapters = seen["control", "up"] + seen["control", "down"], seen["data", "up"] + seen["data", "down"]
    for word in (b"north", b"client_1", b"My order is", b"NULL"):
        assert (word in control) is not with_keys, word
    assert len(seen["data", "up"]) > 2 * 2 * 4 * 10_000 and len(seen["data", "down"]) > 2 * 4 * 10_000, "all went here"
    went = [numbers(home / "run", adapter) for adapter in ("global_model/round_0", "client_0/round_1")]
    for word in (b"lora_A", b"NULL", *went):
        assert (word in adapters) is not with_keys, word


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str, str]]:
    """Two network namespaces with a cable between them: their names, and the address of the first."""
    names = [f"fedmq{os.getpid()}{side}" for side in "ab"]
    cable = [f"fq{os.getpid()}{side}" for side in "ab"]

    def ip(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0

    try:
        made = all(ip("netns", "add", name) for name in names) and ip(
            *("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        )
        for k, (name, end) in enumerate(zip(names, cable, strict=True), 1):
            made = made and ip("link", "set", end, "netns", name)
            made = made and ip("-n", name, "addr", "add", f"10.213.7.{k}/24", "dev", end)
            made = made and ip("-n", name, "link", "set", end, "up")
    except FileNotFoundError:
        made = False
    if not made:
        for name in names:
            ip("netns", "del", name)
        pytest.skip("this needs `ip` and the right to make network namespaces")
    yield names[0], names[1], "10.213.7.1"
    for name in names:
        ip("netns", "del", name)


def test_two_hosts_from_nothing_to_a_run(
    federation: Federation, two_hosts: tuple[str, str, str], tiny_settings: Callable[..., dict[str, Any]]
) -> None:
    """The commands of docs/two-hosts.md, each in a network of its own, with an owner's CSV and a real model."""
    here, there, address = two_hosts
    home, away = federation.folder / "here", federation.folder / "there"
    home.mkdir(), away.mkdir()
    keys(home, "new", "coordinator")
    keys(away, "new", "north")
    (away / "coordinator.pub").write_bytes((home / "keys" / "coordinator.pub").read_bytes())
    (home / "north.pub").write_bytes((away / "keys" / "north.pub").read_bytes())
    keys(home, "allow", "north.pub")

    settings = tiny_settings(num_clients=1, clients_per_round=1) | {"data": {"dataset_path": "nowhere.csv"}}
    config = federation.config(**settings)
    listening = federation.start(
        *("ip", "netns", "exec", here, *FEDMQ, "coordinator", config, "--bind", "tcp://0.0.0.0:5555"),
        *("--keys", home / "keys"),
    )
    listening.wait_line(r"^listening on tcp://0\.0\.0\.0:5555: north may join")
    csv = write_tweets(away / "north.csv", 40)
    worker = federation.start(
        *("ip", "netns", "exec", there, *FEDMQ, "worker", "--connect", f"tcp://{address}:5555"),
        *("--key", away / "keys" / "north.key", "--server-key", away / "coordinator.pub"),
        *("--data", csv, "--client", "north", "--device", "cpu", "--num-threads", 1, "--work-dir", away / "work"),
    )
    assert listening.end() == 0, listening.output()
    assert worker.end() == 0, worker.output()
    listening.wait_line(r"^adapter SHA-256 [0-9a-f]{64}$")
    listening.wait_line(r"^north joined on cpu")
