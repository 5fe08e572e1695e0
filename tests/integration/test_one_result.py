"""Real training: however the clients are dealt out to workers, the model is the same to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import Federation
from running import FEDMQ, accepted, digest_of, fedmq


def test_three_workers_give_what_one_gave(finished: Path, federation: Federation) -> None:
    settings = json.loads((finished / "config.json").read_text())
    config = federation.config(**{k: v for k, v in settings.items() if k not in ("output_dir", "log_dir")})
    done = fedmq("run", config, "--workers", 3, "--json", cwd=federation.folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["digest"] == digest_of(finished / "run")
    assert [g["prompt"] for g in summary["generations"]] == ["My order", "Thanks"]
    assert len({row["worker"] for row in accepted(federation.folder / "run", 1)}) == 2, "two worked at one round"


def test_workers_by_hand_with_only_their_shards_give_the_same(finished: Path, federation: Federation) -> None:
    folder = federation.folder
    settings = json.loads((finished / "config.json").read_text())
    parts = fedmq("data", "partition", finished / "config.json", "--out", folder / "parts", cwd=folder)
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
    assert FEDMQ and not (folder / "run" / "data").exists(), "the coordinator has no text"
