"""Runs whose updates travel in a codec: each of them, with kills, with clients that move, and with joiners."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation
from running import accepted, children, digest_of, eventually, fedmq, here, kill_pid, wait_accepted
from safetensors.numpy import load_file

from fedmq.codec.update import BY_NAME

Settings = Callable[..., dict[str, Any]]
#: every client is trained in every round, and remembers
SIGN = {"upload_codec": "sign", "clients_per_round": 3, "num_rounds": 3, "server_optimizer": "nesterov"}


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The clients' rows of all rounds."""
    metrics = json.loads((run_dir / "training_metrics.json").read_text())
    return [client for round in metrics["round_metrics"] for client in round["client_metrics"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    """A run with "sign" on one worker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.json").write_text(json.dumps(tiny_settings(**SIGN) | {"output_dir": "run", "log_dir": "logs"}))
    done = fedmq("run", "config.json", "--workers", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sign" else pytest.mark.nightly) for name in BY_NAME]
)
def test_a_run_with_each(federation: Federation, tiny_settings: Settings, undisturbed: Path, name: str) -> None:
    folder = undisturbed
    if name != "sign":
        run = federation.fedmq("run", federation.config(**tiny_settings(upload_codec=name)), "--workers", 1)
        assert run.end() == 0, run.output()
        folder = federation.folder / "run"
    rows = rows_of(folder)
    file = folder / rows[0]["client_id"] / "round_1" / "adapter_model.safetensors"
    num_bytes = 4 * sum(value.size for value in load_file(file).values())
    least = {"fp32": 1.0, "bf16": 2.0, "fp16": 1.8, "int8": 3.5, "int4": 7.0, "sign": 20, "topk": 20}[name]
    # The names of a file's tensors, and the headers of messages, are large beside so small an adapter.
    assert all(row["bytes_up"] <= num_bytes / least + (3000 if name == "fp32" else 500) for row in rows)
    metrics = json.loads((folder / "training_metrics.json").read_text())
    losses = metrics["training_history"]["global_loss"]
    assert losses[-1] < losses[0], "it learns"
    assert not (folder / "client_states").exists()


def test_whichever_worker_trains_a_client_it_goes_on_from_its_state(
    federation: Federation, tiny_settings: Settings, undisturbed: Path
) -> None:
    """Two workers share the states; one dies at its work in the second round, and its clients move.

    It dies at a step of its own, not when a test finds the time: rounds take less than that.
    """
    config, witness = federation.config(**tiny_settings(**SIGN)), federation.folder / "witness"
    run = federation.fedmq("run", config, "--workers", 2, FEDMQ_CRASH_AT=f"worker:36:{witness}")
    assert run.end() == 0, run.output()
    assert witness.exists(), "it died"
    rows = rows_of(federation.folder / "run")
    assert len({row["worker_id"] for row in rows}) > 1
    assert not any(row["state_lost"] for row in rows)
    assert digest_of(federation.folder / "run") == digest_of(undisturbed)


@pytest.mark.nightly
def test_a_coordinator_that_is_killed(
    federation: Federation, tiny_settings: Settings, undisturbed: Path, nightly: bool
) -> None:
    """Its workers end with it; the next ones find what the clients remember."""
    config = federation.config(**tiny_settings(**SIGN))
    for round in (1, 2) if nightly else (2,):
        run = federation.fedmq("run", config, "--workers", 2, "--resume")
        wait_round(federation.folder / "run", round)
        run.kill()
    run = federation.fedmq("run", config, "--workers", 2, "--resume")
    assert run.end() == 0, run.output()
    assert not any(row["state_lost"] for row in rows_of(federation.folder / "run"))
    assert digest_of(federation.folder / "run") == digest_of(undisturbed)


@pytest.mark.nightly
def test_states_do_matter(federation: Federation, tiny_settings: Settings, undisturbed: Path) -> None:
    """The runs above would not end alike if the states were left out, or thrown away on the way."""
    config = federation.config(**tiny_settings(**SIGN, upload_codec_options={"error_feedback": False}))
    assert federation.fedmq("run", config, "--workers", 1).end() == 0
    assert digest_of(federation.folder / "run") != digest_of(undisturbed)


def wait_round(run_dir: Path, round: int) -> None:
    """Until something of this round is accepted."""
    eventually(lambda: accepted(run_dir, round), f"an update of round {round}")


def test_a_client_that_moves_to_another_host_begins_anew_and_says_so(federation: Federation) -> None:
    """Hosts that share no folder: the late joiner has the shard of client_1, and nothing that it remembers."""
    gate = federation.gate("second")
    settings = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 3, "save_every": 1, "upload_codec": "sign"}
    coordinator = federation.coordinator(federation.config(federated=settings))
    address = coordinator.address
    a = federation.noop_worker(address, "a", clients=["client_0"], gates={"client_0": str(gate.path)})
    b = federation.noop_worker(address, "b", clients=["client_1"])
    gate.open()
    run_dir = federation.folder / "run"
    wait_accepted(run_dir, 2, {"client_1"})
    states = federation.folder / "noop" / "b" / "client_states"
    assert {path.name.split("-")[0] for path in states.rglob("*.safetensors")} == {"round_1", "round_2"}
    for pid in [*children(b.pid), b.pid]:
        kill_pid(pid)
    c = federation.noop_worker(address, "c", clients=["client_1"])
    gate.open()
    gate.reached()
    wait_accepted(run_dir, 3, {"client_1"})
    gate.open()
    coordinator.ended_well()
    assert [a.end(), c.end()] == [0, 0]
    lost = {(row["round"], row["client_id"]) for row in rows_of(run_dir) if row["state_lost"]}
    assert lost == {(3, "client_1")}
    lost_at = r"train-3-client_1-\d: what the client remembered of its last update is not there, it began anew"
    coordinator.process.wait_line(rf"^warning: {lost_at} from c$")
    assert not (federation.folder / "noop" / "a" / "client_states").exists(), "the run is over"


@pytest.mark.nightly
def test_a_disk_that_lost_what_clients_remember(federation: Federation, tiny_settings: Settings) -> None:
    config = federation.config(**tiny_settings(**SIGN))
    run = federation.fedmq("run", config, "--workers", 1)
    wait_round(federation.folder / "run", 2)
    run.kill()
    shutil.rmtree(federation.folder / "run" / "client_states")
    run = federation.fedmq("run", config, "--workers", 1, "--resume")
    assert run.end() == 0, run.output()
    assert any(row["state_lost"] for row in rows_of(federation.folder / "run"))
    assert "what the client remembered of its last update is not there" in run.text("stdout") + run.text("stderr")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["upload_codec=int3"], "should be 'fp32', 'bf16', 'fp16', 'int8', 'int4', 'sign' or 'topk'; did you mean int"),
        (
            ["upload_codec=int4", "upload_codec_options.blok=64"],
            "federated.upload_codec_options: int4 has no option 'blok'; did you mean block?",
        ),
        (
            ["upload_codec=topk", "upload_codec_options.fraction=2"],
            "federated.upload_codec_options: topk: need fraction in (0, 1], got 2",
        ),
        (["upload_codec_options.error_feedback=true"], "fp32 has no option 'error_feedback'"),
        (["download_codec=int3"], "'int4', 'sign' or 'topk'; did you mean int"),
        (
            ["download_codec=int4", "download_codec_options.blok=64"],
            "federated.download_codec_options: int4 has no option 'blok'; did you mean block?",
        ),
        (
            ["download_codec=topk", "download_codec_options.fraction=0"],
            "federated.download_codec_options: topk: need fraction in (0, 1], got 0",
        ),
        (["download_codec_options.error_feedback=true"], "fp32 has no option 'error_feedback'"),
        (
            ["download_codec=sign", "download_codec_options.error_feedback=1"],
            "federated.download_codec_options: sign: need error_feedback true or false, got 1",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_cannot_be(federation: Federation, settings: list[str], text: str) -> None:
    config = federation.config()
    given = [option for setting in settings for option in ("--set", f"federated.{setting}")]
    done = here("run", config, *given, cwd=federation.folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert text in done.stderr
