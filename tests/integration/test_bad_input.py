"""What users get wrong: one line that says what, the exit code of the contract, and nothing half-written."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Federation, write_tweets
from running import fedmq, here

GOOD = "How long does a refund take? It has been two weeks now."
HEADER = "tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id"


def refused(folder: Path, exit_code: int, *arguments: object) -> str:
    """Run `fedmq ARGUMENTS`, which must end so, and return the one line that it says."""
    done = (fedmq if arguments[0] == "worker" else here)(*arguments, cwd=folder)
    assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fedmq: "), done.stderr
    return done.stderr


DATA = {
    "missing": (None, ["tweets.csv: no such file", "data.dataset_path"]),
    "no column": (f"id,inbound,body\n1,True,{GOOD}\n", ["no column 'text'", "body"]),
    "no row left": (f"{HEADER}\n1,7,False,x,{GOOD},,\n2,7,True,x,short,,\n", ["no row left", "filter_inbound_only"]),
    "undecodable": (f"{HEADER}\n1,7,True,x,{GOOD},,\n2,7,True,x,caf\udce9 {GOOD},,\n", ["line 3", "UTF-8"]),
    "ragged": (f"{HEADER}\n1,7,True,x,{GOOD},,\n2,7,True,x,{GOOD}, and more,,,\n", ["line 3", "7 fields"]),
}


#: What `fedmq run` starts beside its workers to prepare the data, and passes on the line of.
PREPARE = ("data", "partition", "config.json", "--out", "run/data")
RUN = ("run", "config.json", "--workers", 1)


@pytest.mark.parametrize(
    ("case", "command"),
    [
        *((case, PREPARE) for case in DATA),
        *(pytest.param(case, RUN, marks=() if case == "no column" else pytest.mark.nightly) for case in DATA),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_data(
    tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]], case: str, command: tuple[object, ...]
) -> None:
    content, parts = DATA[case]
    if content is not None:
        (tmp_path / "tweets.csv").write_bytes(content.encode(errors="surrogateescape"))
    settings = tiny_settings() | {"data": {"dataset_path": "tweets.csv"}, "output_dir": "run", "log_dir": "logs"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    line = refused(tmp_path, 2, *command)
    for part in ("tweets.csv", *parts):
        assert part in line
    assert not (tmp_path / "run").exists()


CONFIGS: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("federated.num_client=3", ["federated.num_client", "did you mean num_clients"]),
    "unknown section": ("federate.num_clients=3", ["federate", "did you mean federated"]),
    "unknown strategy": ("federated.aggregation_method=fedavgg", ["fedavgg", "did you mean fedavg"]),
    "unknown distribution": ("federated.data_distribution=by_autor", ["by_autor", "by_author"]),
    "too many per round": ("federated.clients_per_round=7", ["clients_per_round: 7", "num_clients"]),
    "splits": ("data.test_split=0.3", ["0.8", "0.3", "sum to 1"]),
    "wrong type": ('federated.num_rounds="3"', ["federated.num_rounds", '"3"', "integer"]),
    "no assignment": ("num_rounds", ["num_rounds", "SECTION.KEY=VALUE"]),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_config(tmp_path: Path, command: str, case: str) -> None:
    assignment, parts = CONFIGS[case]
    (tmp_path / "c.json").write_text(json.dumps({"federated": {"num_clients": 5}, "output_dir": "run"}))
    words = ["run"] if command == "run" else ["config", "validate"]
    line = refused(tmp_path, 2, *words, "c.json", "--set", assignment)
    for part in parts:
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["no such config file"]),
        ("{", ["line 1", "not JSON"]),
        ('{"seed": 1, "seed": 2}', ["seed", "twice"]),
        ("[]", ["should hold an object"]),
    ],
)
def test_config_file(tmp_path: Path, content: str | None, parts: list[str]) -> None:
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    line = refused(tmp_path, 2, "run", "c.json")
    for part in ("c.json", *parts):
        assert part in line


def test_target_modules_that_match_nothing(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    settings = tiny_settings() | {"lora": {"target_modules": ["q_proj"]}, "output_dir": "run", "log_dir": "logs"}
    (tmp_path / "c.json").write_text(json.dumps(settings))
    line = refused(tmp_path, 2, "run", "c.json", "--workers", 1)
    for part in ("q_proj", "c_attn", "c_proj", "c_fc"):
        assert part in line
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"data"}, "whole shards may stay, no run"


def test_base_model_that_is_nowhere(tmp_path: Path, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    settings = tiny_settings() | {"model": {"model_name": "gpt2-nowhere"}, "output_dir": "run", "log_dir": "logs"}
    (tmp_path / "c.json").write_text(json.dumps(settings))
    line = refused(tmp_path, 2, "run", "c.json", "--workers", 1)
    for part in ("gpt2-nowhere", "folder", "fedmq-tiny"):
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_run(federation: Federation) -> Path:
    """The config of a finished run of a coordinator and a worker that computes nothing."""
    config = federation.config(federated={"num_clients": 1, "clients_per_round": 1, "num_rounds": 1})
    coordinator = federation.coordinator(config)
    federation.noop_worker(coordinator.address, "w0", clients=["client_0"])
    coordinator.ended_well()
    return config


def test_output_dir_that_is_taken(federation: Federation, small_run: Path) -> None:
    listen = ("--bind", "tcp://127.0.0.1:0")
    folder = federation.folder
    database = (folder / "run" / "run.db").read_bytes()
    line = refused(folder, 2, "coordinator", small_run, *listen)
    assert "finished run" in line and "--resume" in line and "--overwrite" in line
    for options in ([], ["--resume"]):
        line = refused(folder, 2, "coordinator", small_run, *listen, "--set", "seed=1", *options)
        assert "another config" in line and "seed" in line and "--overwrite" in line
    line = refused(folder, 2, "coordinator", small_run, *listen, "--resume", "--overwrite")
    assert "--resume" in line and "--overwrite" in line
    assert (folder / "run" / "run.db").read_bytes() == database


def test_overwrite_replaces_a_run_and_nothing_else(federation: Federation, small_run: Path) -> None:
    run = federation.folder / "run"
    (run / "notes.txt").write_text("mine")
    before = (run / "run.db").stat().st_ino
    coordinator = federation.coordinator(small_run, "--overwrite", "--set", "seed=1")
    federation.noop_worker(coordinator.address, "w1", clients=["client_0"])
    coordinator.ended_well()
    assert (run / "run.db").stat().st_ino != before
    assert json.loads((run / "config.json").read_text())["seed"] == 1
    assert (run / "notes.txt").read_text() == "mine"


def test_a_config_file_in_output_dir_is_not_written_over(federation: Federation) -> None:
    (federation.folder / "config.json").write_text('{"seed": 5}')
    listen = ("--bind", "tcp://127.0.0.1:0")
    line = refused(federation.folder, 2, "coordinator", "config.json", *listen, "--output-dir", ".")
    assert "config.json" in line and "output_dir" in line
    assert (federation.folder / "config.json").read_text() == '{"seed": 5}'


def test_output_dir_in_use(federation: Federation) -> None:
    config = federation.config()
    federation.coordinator(config)
    line = refused(federation.folder, 1, "coordinator", config, "--bind", "tcp://127.0.0.1:0", "--resume")
    assert "in use by another coordinator" in line


def test_port_in_use(federation: Federation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        line = refused(federation.folder, 1, "coordinator", federation.config(), "--bind", address)
    assert address in line and "in use" in line
    assert not (federation.folder / "run").exists()


def test_no_worker_within_the_start_timeout(federation: Federation) -> None:
    config = federation.config(federated={"num_clients": 4, "start_timeout_s": 0.5})
    line = refused(federation.folder, 1, "coordinator", config, "--bind", "tcp://127.0.0.1:0")
    assert "4 more clients" in line and "0.5 s" in line
    assert not (federation.folder / "run").exists()


def test_worker_of_another_protocol_version(federation: Federation) -> None:
    coordinator = federation.coordinator(federation.config())
    launcher = federation.folder / "newer.py"
    launcher.write_text(
        "from fedmq.protocol import messages\nmessages.PROTOCOL_VERSION += 1\nfrom fedmq.cli import main\nmain()\n"
    )
    csv = write_tweets(federation.folder / "own.csv", 20)
    worker = federation.start(
        *(sys.executable, launcher, "worker", "--connect", coordinator.address, "--data", csv, "--client", "a")
    )
    assert worker.end() == 4
    (line,) = worker.lines["stderr"]
    assert "version" in line
    coordinator.process.wait_line("a worker was refused: VERSION")
    assert coordinator.process.running, "one stranger does not end the run"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--data", "nowhere"], "nowhere: no such file"),
        (["--data", "own.csv"], "each CSV needs one name"),
        (["--client", "a"], "each name one CSV"),
        (["--data", "own.csv", "--client", "a/b"], "a/b"),
        (["--name", "../x"], "--name"),
        (["--bogus"], "--bogus"),
    ],
)
def test_worker_options(tmp_path: Path, options: list[str], part: str) -> None:
    write_tweets(tmp_path / "own.csv", 20)
    assert part in refused(tmp_path, 2, "worker", "--connect", "tcp://127.0.0.1:1", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


@pytest.mark.parametrize("address", ["127.0.0.1:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:99999"])
def test_address(tmp_path: Path, address: str) -> None:
    assert "tcp://HOST:PORT" in refused(tmp_path, 2, "worker", "--connect", address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [["inspect"], ["evaluate"], ["generate", "--prompt", "Hello"], ["export", "--out", "exported"]]
)
def test_folder_that_holds_no_run(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    name, *options = command
    assert "photos is not a run's folder" in refused(tmp_path, 1, name, "photos", *options)
    assert "nowhere is not a run's folder" in refused(tmp_path, 1, name, "nowhere", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_worker_whose_data_cannot_be_used(federation: Federation, tiny_settings: Callable[..., dict[str, Any]]) -> None:
    coordinator = federation.coordinator(federation.config(**tiny_settings(num_clients=1, clients_per_round=1)))
    (federation.folder / "own.csv").write_text(f"id,inbound,body\n1,True,{GOOD}\n")
    worker = federation.fedmq(
        *("worker", "--connect", coordinator.address, "--name", "w", "--data", "own.csv", "--client", "a")
    )
    assert worker.end() == 2
    (line,) = [line for line in worker.lines["stderr"] if line.startswith("fedmq: ")]
    assert "own.csv" in line and "no column 'text'" in line
    assert coordinator.process.running
