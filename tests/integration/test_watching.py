"""What can be seen of a run while it runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

from conftest import Federation
from running import FEDMQ, environment, eventually, fedmq

ONE_ROUND = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 1}


def inspected(folder: Path) -> dict[str, Any]:
    return json.loads(fedmq("inspect", "run", "--json", cwd=folder).stdout)


def test_inspect_a_running_a_killed_and_a_finished_run(federation: Federation) -> None:
    folder, config = federation.folder, federation.config(federated=ONE_ROUND)
    coordinator = federation.coordinator(config)
    found = inspected(folder)
    assert (found["status"], found["committed"], found["digest"]) == ("running", None, None)
    gate = federation.gate("client_0")
    federation.noop_worker(coordinator.address, "w0", gates={"client_0": str(gate.path)})
    gate.reached()
    waiting = "w0: train client_0"
    eventually(lambda: any(line.startswith(waiting) for line in inspected(folder)["live"]["awaited"]), waiting)
    said = fedmq("inspect", "run", cwd=folder).stdout
    for part in ("run: running", "last committed round: 0 of 1", "now: training, round 1", f"waiting for {waiting}"):
        assert part in said

    watcher = federation.fedmq("inspect", "run", "--watch", "--json")
    watcher.wait_line(r'"status": "running"')
    coordinator.process.kill()
    assert watcher.end() == 0
    assert json.loads(watcher.text("stdout").splitlines()[-1])["status"] == "stopped without notice"
    assert inspected(folder)["status"] == "stopped without notice"
    again = federation.coordinator(config, "--resume", port=coordinator.port)
    assert inspected(folder)["status"] == "running"
    gate.open()
    digest = again.ended_well()
    found = inspected(folder)
    assert (found["status"], found["committed"], found["digest"], found["live"]) == ("done", 1, digest, None)
    assert fedmq("inspect", "run", "--watch", cwd=folder).stdout == fedmq("inspect", "run", cwd=folder).stdout


def test_coordinator_with_json_keeps_stdout_to_itself(federation: Federation) -> None:
    config = federation.config(federated=ONE_ROUND)
    process = federation.fedmq("coordinator", config, "--bind", "tcp://127.0.0.1:0", "--json")
    address = process.wait_line(r"^listening on (tcp://\S+):", "stderr")[1]
    federation.noop_worker(address, "w0", evaluates=True)
    assert process.end() == 0
    summary = json.loads(process.text("stdout"))
    found = inspected(federation.folder)
    assert summary["digest"] == found["digest"]
    assert {span["kind"] for span in found["timeline"]} == {"wait", "train", "transfer", "aggregate", "evaluate"}
    assert summary["rounds"] == 1 and summary["perplexity"].keys() == {"0", "1"}


def test_a_terminal_gets_bars_for_the_rounds_and_for_each_worker(federation: Federation) -> None:
    config = federation.config(federated=ONE_ROUND)
    main_fd, terminal = pty.openpty()
    command = [*FEDMQ, "coordinator", str(config), "--bind", "tcp://127.0.0.1:0"]
    env = environment(TERM="xterm", COLUMNS="200", CI="")
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        seen = read_until(main_fd, "start workers with")
        address = seen.split("listening on ")[1].split(": start")[0]
        gate = federation.gate("client_0")
        federation.noop_worker(address, "w0", gates={"client_0": str(gate.path)})
        gate.reached()
        read_until(main_fd, "train client_0")
        gate.open()
        shown = read_until(main_fd, "adapter SHA-256")
        assert "round 1/1" in shown
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main_fd)


def read_until(fd: int, text: str) -> str:
    """What the terminal shows, until `text` is there."""
    seen = ""
    while text not in seen:
        seen += os.read(fd, 4096).decode(errors="replace")
    return seen
