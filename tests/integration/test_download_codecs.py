"""Runs whose global adapter travels as deltas: fewer bytes, late joiners, kills, and deltas that are lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation, digest_once
from running import Running, children, command_line, digest_of, eventually, fedmq, kill_pid, wait_accepted
from safetensors.numpy import load_file

from fedmq.storage.journal import Journal

Settings = Callable[..., dict[str, Any]]
#: What each of two hosts trains in each round; both remember, and so does the server, twice.
FEDERATED = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 4, "save_every": 1, "upload_codec": "int4"}
FEDERATED |= {"download_codec": "int4", "server_optimizer": "nesterov"}
SHAPE = [20_000]
#: A few hundred bytes of header each.
WHOLE, DELTA = 160_000, 160_000 / 5
REAL = {"upload_codec": "sign", "download_codec": "sign", "clients_per_round": 3, "num_rounds": 3}
REAL |= {"server_optimizer": "nesterov"}


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The clients' rows of all rounds."""
    metrics = json.loads((run_dir / "training_metrics.json").read_text())
    return [client for round in metrics["round_metrics"] for client in round["client_metrics"]]


def bytes_down(run_dir: Path, client: str | None = None) -> dict[int, int]:
    """By round."""
    rows = [row for row in rows_of(run_dir) if client in (None, row["client_id"])]
    return {round: sum(row["bytes_down"] for row in rows if row["round"] == round) for round in range(1, 5)}


def committed(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The committed rounds, as run.db has them."""
    journal = Journal.open(run_dir / "run.db", read_only=True)
    try:
        return {row["round"]: row for row in journal.rounds() if row["state"] == "committed"}
    finally:
        journal.close()


class Hosts:
    """A coordinator and two hosts, a and b, with a client each; each waits at its gate when it trains."""

    def __init__(self, federation: Federation, **federated: Any) -> None:
        self.federation, self.run_dir = federation, federation.folder / "run"
        self.config = federation.config(federated=FEDERATED | federated)
        self.gates = {name: federation.gate(name) for name in "ab"}
        self.coordinator = federation.coordinator(self.config)
        self.hosts = {name: self.host(name, f"client_{k}", name) for k, name in enumerate("ab")}

    def host(self, name: str, client: str, gate: str) -> Running:
        """A worker of this name, with a folder of its own."""
        gates = {client: str(self.gates[gate].path)}
        return self.federation.noop_worker(self.coordinator.address, name, clients=[client], gates=gates, shape=SHAPE)

    def round(self, round: int) -> None:
        """Both train, and it is committed."""
        for gate in self.gates.values():
            gate.open()
        eventually(lambda: round in committed(self.run_dir), f"round {round}")

    def finish(self, first: int) -> str:
        """The rounds from this one on; returns the run's digest."""
        for round in range(first, 5):
            self.round(round)
        return self.coordinator.ended_well()

    def killed(self) -> None:
        """The coordinator is."""
        self.coordinator.process.kill()

    def resumed(self) -> None:
        """By the same command."""
        port = self.coordinator.port
        self.coordinator = self.federation.coordinator(self.config, "--resume", port=port)


def killed(process: Running) -> None:
    """And what it started."""
    for pid in [*children(process.pid), process.pid]:
        kill_pid(pid)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run of `Hosts`."""
    return digest_once(tmp_path_factory, "undisturbed-deltas", lambda federation: Hosts(federation).finish(1))


# --- bytes -----------------------------------------------------------------------------------------


def test_later_rounds_take_less_than_a_fifth_of_the_bytes(federation: Federation, undisturbed: str) -> None:
    hosts = Hosts(federation)
    assert hosts.finish(1) == undisturbed
    whole = Hosts(Federation(made(federation.folder / "whole")), download_codec="fp32")
    try:
        assert whole.finish(1) != undisturbed
        few, many = bytes_down(hosts.run_dir), bytes_down(whole.run_dir)
    finally:
        whole.federation.end()
    assert few[1] == many[1] > 2 * WHOLE, "the first adapter is whole"
    for round in (2, 3, 4):
        assert 0 < few[round] < many[round] / 5, (few, many)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_late_joiner_gets_the_whole_file_and_then_deltas(federation: Federation, undisturbed: str) -> None:
    hosts = Hosts(federation, upload_codec="int8")
    for round in (1, 2):
        hosts.round(round)
    killed(hosts.hosts["b"])
    hosts.host("c", "client_1", "b")
    hosts.finish(3)
    down = bytes_down(hosts.run_dir, "client_1")
    assert down[2] < DELTA and down[3] > WHOLE and down[4] < DELTA, down
    assert all(bytes_down(hosts.run_dir, "client_0")[round] < DELTA for round in (2, 3, 4))


@pytest.mark.parametrize(
    "name", ["topk", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fp16", "int8"))]
)
def test_a_real_run(federation: Federation, tiny_settings: Settings, name: str) -> None:
    config = federation.config(**tiny_settings(download_codec=name, num_rounds=3, clients_per_round=3))
    run = federation.fedmq("run", config, "--workers", 1)
    assert run.end() == 0, run.output()
    folder = federation.folder / "run"
    losses = json.loads((folder / "training_metrics.json").read_text())["training_history"]["global_loss"]
    assert losses[-1] < losses[0], "it learns"
    file = folder / "global_model" / "round_3" / "adapter_model.safetensors"
    assert load_file(file)
    down = bytes_down(folder)
    assert max(down[2], down[3]) < 0.6 * down[1] and down[1] > file.stat().st_size


# --- kills -----------------------------------------------------------------------------------------


def test_kills_of_the_coordinator_and_of_a_worker(federation: Federation, undisturbed: str) -> None:
    """With a whole round between two gates, each is killed where the other is not in step with it."""
    hosts = Hosts(federation)
    hosts.round(1)
    hosts.killed()
    hosts.resumed()
    hosts.gates["a"].open()
    wait_accepted(hosts.run_dir, 2, {"client_0"})
    killed(hosts.hosts["a"])
    hosts.host("a", "client_0", "a")
    hosts.gates["b"].open()
    eventually(lambda: 2 in committed(hosts.run_dir), "round 2")
    hosts.killed()
    hosts.resumed()
    assert hosts.finish(3) == undisturbed
    assert all(bytes_down(hosts.run_dir, "client_0")[round] < DELTA for round in (2, 3, 4)), "from what is on its disk"


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    """A real run on one worker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.json").write_text(json.dumps(tiny_settings(**REAL) | {"output_dir": "run", "log_dir": "logs"}))
    done = fedmq("run", "config.json", "--workers", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.nightly
def test_real_trainings_killed_and_resumed(
    federation: Federation, tiny_settings: Settings, undisturbed_run: Path
) -> None:
    config, run_dir = federation.config(**tiny_settings(**REAL)), federation.folder / "run"
    for round in (1, 2):
        run = federation.fedmq("run", config, "--workers", 2, "--resume")
        eventually(lambda round=round: (run_dir / "run.db").exists() and round in committed(run_dir), f"round {round}")
        if round == 1:
            (victim,) = [pid for pid in children(run.pid) if "--name worker_1 " in command_line(pid)]
            kill_pid(victim)
        run.kill()
    run = federation.fedmq("run", config, "--workers", 2, "--resume")
    assert run.end() == 0, run.output()
    assert digest_of(run_dir) == digest_of(undisturbed_run)


@pytest.mark.nightly
def test_the_servers_residual_does_matter(
    federation: Federation, tiny_settings: Settings, undisturbed_run: Path
) -> None:
    """The runs above would not end alike if it were left out, or lost on the way."""
    config = federation.config(**tiny_settings(**REAL, download_codec_options={"error_feedback": False}))
    assert federation.fedmq("run", config, "--workers", 1).end() == 0
    assert digest_of(federation.folder / "run") != digest_of(undisturbed_run)


# --- deltas that are lost --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_delta_that_the_coordinator_has_lost_costs_a_whole_download(
    federation: Federation, undisturbed: str, how: str
) -> None:
    hosts = Hosts(federation)
    hosts.round(1)
    hosts.gates["a"].open()
    wait_accepted(hosts.run_dir, 2, {"client_0"})
    hosts.hosts["a"].signal(signal.SIGSTOP)  # it holds version 1, and will ask for version 2
    hosts.gates["b"].open()
    eventually(lambda: 2 in committed(hosts.run_dir), "round 2")
    hosts.killed()
    delta = hosts.run_dir / "blobs" / committed(hosts.run_dir)[2]["delta"]
    delta.unlink() if how == "deleted" else delta.write_bytes(delta.read_bytes()[:-1] + b"!")
    hosts.resumed()
    hosts.hosts["a"].signal(signal.SIGCONT)
    assert hosts.finish(3) == undisturbed
    down = bytes_down(hosts.run_dir, "client_0")
    assert down[3] > WHOLE and down[4] < DELTA, down
    said = "the delta of an adapter is of no use (the coordinator does not have it): the whole is downloaded"
    assert (said in worker_log(federation, "a")) is (how == "damaged")


def worker_log(federation: Federation, name: str) -> str:
    return "\n".join(
        process.text("stderr") for process in federation._started if f"/noop/{name}" in str(process.command)
    )
