"""`fedmq doctor` where something really is wrong: a taken port, a key that others can read, no such column."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmq.config import ExperimentConfig, bundled_config
from fedmq.doctor import host, surroundings
from fedmq.doctor.check import Check, made
from fedmq.runtime.host_memory import host_memory
from fedmq.runtime.open_files import most_open_files
from fedmq.transport.allowed import allow
from fedmq.transport.keys import new_pair


def quickstart(**sections: object) -> ExperimentConfig:
    return ExperimentConfig.load(bundled_config("quickstart.json")).with_overrides(
        [f"{name}={json.dumps(value)}" for name, value in sections.items()]
    )


@contextmanager
def taken_port() -> Iterator[int]:
    """Whose predecessor is free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port - 1)).close()
            except OSError:
                continue
            yield port
            return


def outcome(*checks: Check) -> list[tuple[str, str]]:
    return [(check.name, check.status) for check in checks]


def test_a_port_that_is_taken() -> None:
    with taken_port() as port:
        (check,) = made("network", lambda: surroundings.network(f"tcp://127.0.0.1:{port}", None))
        assert check.status == "failed" and "in use" in check.found
        # It listens on the one before, and cannot have the taken one for its data.
        (check,) = made("network", lambda: surroundings.network(f"tcp://127.0.0.1:{port - 1}", None))
        assert check.status == "warning" and str(port) in check.found
    (check,) = made("network", lambda: surroundings.network("tcp://0.0.0.0:0", None))
    assert check.status == "failed" and "only with keys" in check.found and check.exit_code == 2


def test_keys(tmp_path: Path) -> None:
    new_pair("coordinator", tmp_path / "keys")
    worker = new_pair("north", tmp_path / "north")
    (check,) = made("keys", lambda: surroundings.coordinator_keys(tmp_path / "keys"))
    assert check.status == "warning" and "nobody may join" in check.found
    allow(worker.public, tmp_path / "keys")
    (check,) = made("keys", lambda: surroundings.coordinator_keys(tmp_path / "keys"))
    assert check.status == "ok" and "may join: north" in check.found
    secret, public = tmp_path / "north" / "north.key", tmp_path / "keys" / "coordinator.pub"
    assert outcome(*surroundings.worker_key(secret), *surroundings.server_key(public)) == [
        ("key", "ok"),
        ("server", "ok"),
    ]
    secret.chmod(0o644)
    (check,) = made("key", lambda: surroundings.worker_key(secret))
    assert check.status == "failed" and "chmod 600" in check.found and check.exit_code == 2


def test_data(tmp_path: Path) -> None:
    (check,) = made("data", lambda: surroundings.data(quickstart()))
    assert check.status == "ok" and "3600 rows read, 2202 kept; 6 clients of 293 to 294" in check.found
    path = tmp_path / "tweets.csv"
    path.write_text("message,inbound\nhello there,True\n")
    (check,) = made("data", lambda: surroundings.data(quickstart(**{"data.dataset_path": str(path)})))
    assert check.status == "failed" and "no column 'text'" in check.found and check.exit_code == 2


def test_a_limit_of_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert outcome(*host.open_files(2)) == [("files", "ok")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert outcome(*host.open_files(60)) == [("files", "ok")], "a coordinator raises it"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (check,) = host.open_files(most_open_files())
    assert check.status == "failed" and f"ulimit -Hn {64 + 4 * most_open_files()}" in check.advice


def test_memory_and_disk(tmp_path: Path) -> None:
    assert outcome(*host.memory(1, 1)) == [("memory", "ok")]
    (check,) = host.memory(1, 1 << 50)
    assert check.status == "failed" and "fewer workers" in check.advice
    assert outcome(*host.disk(tmp_path / "a" / "run", 0)) == [("disk", "ok")]
    assert outcome(*host.disk(tmp_path / "a" / "run", 1 << 60)) == [("disk", "failed")]
    (tmp_path / "file").write_text("")
    (check,) = host.disk(tmp_path / "file" / "run", 0)
    assert check.status == "failed" and "is a file" in check.found


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    """Of version 2, in a group whose parent has the smaller limit."""
    group = tmp_path / "sys/fs/cgroup/job/step"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
    for folder, limit in ((group, "max"), (group.parent, str(10**9))):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("400000000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 100000000\n")
    found = host_memory(tmp_path)
    assert found == (10**9, 7 * 10**8, str(group.parent / "memory.max"))


def test_a_check_that_breaks() -> None:
    def check() -> Iterator[Check]:
        yield Check("network", "ok", str(1 // 0))

    (broken,) = made("network", check)
    assert broken.status == "warning" and "ZeroDivisionError" in broken.found


def doctor(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedmq", "doctor", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )


@pytest.mark.parametrize("row", ["B61 port, keys, base and data that are not as they should be"])
def test_all_that_is_wrong_is_told(tmp_path: Path, row: str) -> None:
    (tmp_path / "gpt2").mkdir()
    keys = ("--key", "none.key", "--server-key", "none.pub")
    with taken_port() as port:
        config = ("--set", f"model.model_name={tmp_path / 'gpt2'}", "--set", "data.dataset_path=nowhere.csv", *keys)
        done = doctor(
            *config, "--bind", f"tcp://127.0.0.1:{port}", "--output-dir", tmp_path / "run", "--json", cwd=tmp_path
        )
    assert done.returncode == 2 and not done.stderr
    found = json.loads(done.stdout)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert {name for name in status if status[name] == "failed"} == {"network", "key", "server", "model", "data"}
    assert status["python"] == status["device"] == "ok" and found["exit_code"] == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"federated": {"num_client": 3}}')
    (tmp_path / "file").touch()
    done = doctor("bad.json", "--output-dir", "file", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout.startswith("failed   config")
    assert f"failed   disk      {tmp_path / 'file'} is a file" in done.stdout
    assert "num_clients" in done.stdout.splitlines()[0] and "ok       python" in done.stdout


@pytest.mark.nightly
def test_all_is_well(tmp_path: Path) -> None:
    done = doctor(bundled_config("quickstart.json"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 12
