"""Real training: however the clients are dealt out to workers, the model is the same to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import Federation
from running import accepted, children, command_line, digest_of, here, kill_pid


def test_three_workers_one_of_them_killed_give_what_one_gave(finished: Path, federation: Federation) -> None:
    settings = json.loads((finished / "config.json").read_text())
    config = federation.config(**{k: v for k, v in settings.items() if k not in ("output_dir", "log_dir")})
    run = federation.fedmq("run", config, "--workers", 3)
    run.wait_line("worker_1 joined")
    (victim,) = [pid for pid in children(run.pid) if "--name worker_1 " in command_line(pid)]
    kill_pid(victim)
    assert run.end() == 0
    assert run.wait_line(r"^adapter SHA-256 (\w+)$")[1] == digest_of(finished / "run")


def test_workers_by_hand_with_only_their_shards_give_the_same(finished: Path, federation: Federation) -> None:
    folder = federation.folder
    settings = json.loads((finished / "config.json").read_text())
    parts = here("data", "partition", finished / "config.json", "--out", folder / "parts", cwd=folder)
    assert parts.returncode == 0, parts.stderr
    assert "client_2" in parts.stdout and parts.stdout.endswith(f"wrote {folder / 'parts'}\n")
    # Each host gets what is its own; the rest is not there for anybody to read.
    shards = {"a": ["clients/client_0", "test"], "b": ["clients/client_1", "clients/client_2"]}
    for host, names in shards.items():
        for name in names:
            shutil.move(folder / "parts" / name, folder / host / Path(name).name)
    shutil.rmtree(folder / "parts")
    settings["data"]["dataset_path"] = str(folder / "nowhere.csv")
    config = federation.config(**{k: v for k, v in settings.items() if k not in ("output_dir", "log_dir")})
    coordinator = federation.coordinator(config)
    workers = [
        federation.fedmq(
            *("worker", "--connect", coordinator.address, "--name", host, "--device", "cpu", "--num-threads", 1),
            *(option for name in names for option in ("--data", folder / host / Path(name).name)),
        )
        for host, names in shards.items()
    ]
    assert coordinator.ended_well() == digest_of(finished / "run")
    assert [worker.end() for worker in workers] == [0, 0]
    hosts = {row["client"]: row["worker"] for round in (1, 2) for row in accepted(folder / "run", round)}
    assert set(hosts.items()) <= {("client_0", "a"), ("client_1", "b"), ("client_2", "b")}
    assert not (folder / "run" / "data").exists(), "the coordinator has no text"
