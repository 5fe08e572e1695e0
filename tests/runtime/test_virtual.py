"""Runs by a virtual clock: who arrives when follows from the speeds, and everything else as ever."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from serving import make_server

from fedmq.codec.download import download_codec
from fedmq.config import get_default_config
from fedmq.errors import ConfigError, RunError
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.fields import MAX_CONTINUATION
from fedmq.protocol.policy import RoundPolicy
from fedmq.protocol.trainer_link import Setup, Texts
from fedmq.recipe import CodecSpec
from fedmq.runtime.child import TrainerProcess
from fedmq.runtime.console import ConsoleView
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.virtual import NEVER, VirtualRun
from fedmq.storage.timeline import timeline

NOOP = Path(__file__).resolve().parents[2] / "benchmarks" / "noop_trainer.py"
CLIENTS = ("client_0", "client_1", "client_2", "client_3")


@pytest.fixture
def noop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Options of the trainers that this test starts."""
    options: dict[str, Any] = {"clients": list(CLIENTS), "shape": [8]}
    monkeypatch.setenv("FEDMQ_NOOP", json.dumps(options))

    def change(**more: Any) -> None:
        monkeypatch.setenv("FEDMQ_NOOP", json.dumps(options | more))

    return change


def play(
    folder: Path, policy: RoundPolicy, speeds: Mapping[str, float], generates: bool = False, **options: Any
) -> FederatedServer:
    """A run to its end; its server."""
    config = get_default_config()
    config.training.num_epochs = 1
    config.generation.prompts = ["My order"] if generates else []
    server = make_server(folder, num_rounds=policy.num_rounds, **options)
    server.journal.put(secret="s", run="r")
    state = CoordinatorState(policy, NEVER, 4, frozenset(CLIENTS), generates=generates, progress=server.progress())
    fields = {field.name: "" for field in dataclasses.fields(Setup)}
    fields |= {"spec": config.to_run_spec(), "sources": (), "model": None, "cache_dir": None, "log_dir": None}
    setup = Setup(**fields | {"work_dir": str(folder), "state_dir": str(folder / "states"), "device": "cpu"})
    trainer = TrainerProcess([sys.executable, str(NOOP)], 1, folder / "trainer.log")
    run = VirtualRun(state, server, setup.spec, ConsoleView(Console(file=io.StringIO())), trainer, setup, speeds)
    try:
        run.run()
    finally:
        run.close()
    assert run.finish is not None and run.finish.outcome == "done", run.finish
    return server


def story(server: FederatedServer) -> list[tuple[list[tuple[str, int]], float]]:
    """Of each round: who is in it, how many versions late, and when it was committed."""
    at = 0.0
    told = []
    for row in server.rounds(1):
        at += row["seconds"]
        told.append(([(c["client_id"], c["staleness"]) for c in row["client_metrics"]], round(at, 6)))
    return told


def seconds(server: FederatedServer, client: str) -> float:
    hosted = server.journal.hosted(client)
    assert hosted is not None
    return float(hosted.num_examples)


def test_a_sync_round_takes_as_long_as_its_slowest_client(tmp_path: Path, noop: Callable[..., None]) -> None:
    server = play(tmp_path / "run", RoundPolicy(2, 4, 4), {"client_2": 0.1})
    slowest = 10 * seconds(server, "client_2")
    assert story(server) == [([(client, 0) for client in CLIENTS], k * slowest) for k in (1, 2)]
    spans = [span for span in timeline(server.journal) if span["who"] == "client_2" and span["kind"] == "train"]
    assert [(span["start"], span["end"]) for span in spans] == [(0.0, slowest), (slowest, 2 * slowest)]
    assert {span["kind"] for span in timeline(server.journal)} >= {"evaluate", "transfer"}


def test_a_semi_sync_round_ends_at_its_deadline(tmp_path: Path, noop: Callable[..., None]) -> None:
    policy = RoundPolicy(2, 4, 2, deadline_s=5000.0)
    server = play(tmp_path / "run", policy, {"client_1": 1e-3, "client_2": 0.5})
    others = [("client_0", 0), ("client_2", 0), ("client_3", 0)]
    assert story(server) == [(others, 5000.0), (others, 10_000.0)]


def test_an_async_run_waits_for_nobody(tmp_path: Path, noop: Callable[..., None]) -> None:
    """Speeds that make the arrivals easy to tell: a client takes 1, 1, 1 and 25 units."""
    noop(clients=list(CLIENTS))
    policy = RoundPolicy(9, cohort=3, quorum=3, concurrency=4, max_staleness=20)
    first = play(tmp_path / "sizes", RoundPolicy(1, 4, 4), {})
    speeds = {client: seconds(first, client) for client in CLIENTS}
    server = play(tmp_path / "run", policy, speeds | {"client_3": speeds["client_3"] / 25})
    fast = [("client_0", 0), ("client_1", 0), ("client_2", 0)]
    assert story(server) == [(fast, float(k)) for k in range(1, 10)]
    policy = dataclasses.replace(policy, num_rounds=3)
    server = play(tmp_path / "two", policy, speeds | {"client_3": speeds["client_3"] / 1.5})
    expected = [(fast, 1.0), ([("client_0", 0), ("client_1", 0), ("client_3", 1)], 2.0)]
    assert story(server)[:2] == expected


def test_the_same_speeds_give_the_same_model_and_others_another(tmp_path: Path, noop: Callable[..., None]) -> None:
    policy = RoundPolicy(6, cohort=2, quorum=2, concurrency=3, max_staleness=5)
    digests = []
    for k, slow in enumerate(("client_3", "client_3", "client_1")):
        server = play(tmp_path / str(k), policy, {slow: 0.1})
        digests.append([row["digest"] for row in server.rounds(1)])
    assert digests[0] == digests[1] != digests[2]


def test_what_is_too_old_is_stopped_and_not_computed(tmp_path: Path, noop: Callable[..., None]) -> None:
    told = tmp_path / "told"
    noop(told=str(told))
    policy = RoundPolicy(8, cohort=1, quorum=1, concurrency=2, max_staleness=1)
    server = play(tmp_path / "run", policy, {"client_2": 1e-3, "client_3": 1e-3})
    stories = story(server)
    assert all(late <= 1 for clients, _ in stories for _, late in clients)
    trained = [line.split()[1] for line in told.read_text().splitlines()]
    assert len(trained) == 8, "what is in the model, and nothing else"
    assert all(a <= b for (_, a), (_, b) in itertools.pairwise(stories))


def test_a_training_that_fails_is_told(tmp_path: Path, noop: Callable[..., None]) -> None:
    noop(fails={"client_0": ["no memory"] * 9})
    policy = RoundPolicy(2, cohort=2, quorum=2, concurrency=3, max_staleness=5)
    server = play(tmp_path / "run", policy, {})
    assert all(client != "client_0" for clients, _ in story(server) for client, _ in clients)
    assert any("no memory" in note["text"] for note in server.journal.notes())


def test_a_trainer_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_NOOP", "no JSON")
    with pytest.raises(RunError, match="the trainer ended with exit code 1; see trainer.log"):
        play(tmp_path / "run", RoundPolicy(1, 4, 4), {})


def test_data_that_cannot_be_used(tmp_path: Path, noop: Callable[..., None]) -> None:
    noop(clients=["client_9"])
    with pytest.raises(ConfigError, match="this run has no client_9"):
        play(tmp_path / "run", RoundPolicy(1, 4, 4), {})


def test_downloads_are_counted_as_workers_would_ask_for_them(tmp_path: Path, noop: Callable[..., None]) -> None:
    """The first adapter whole, then deltas; whole again for whoever was not in the round before."""
    noop(shape=[2000])
    codec = download_codec(CodecSpec("int4", None, None, None))
    server = play(tmp_path / "run", RoundPolicy(3, 4, 4), {}, download=codec)
    whole = server.adapter(3).nbytes
    first, *others = [{client["bytes_down"] for client in row["client_metrics"]} for row in server.rounds(1)]
    assert first == {whole}
    assert all(0 < min(counted) <= max(counted) < whole / 5 for counted in others), others
    server = play(tmp_path / "some", RoundPolicy(6, 2, 2), {}, download=codec)
    seen: dict[str, int] = {}
    for row in server.rounds(1):
        for client in row["client_metrics"]:
            held = seen.get(client["client_id"]) == row["round"] - 1
            assert (client["bytes_down"] < whole / 5) is held, (row["round"], client)
            seen[client["client_id"]] = row["round"]
    assert len(set(seen.values())) > 1, "not all were in all rounds"


def test_texts_are_cut_and_made_harmless_as_those_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long continuation with a terminal's escape codes in it: the run ends well, and keeps what may be shown."""
    said = "\x1b[31m" + 5000 * "x"
    monkeypatch.setattr(TrainerProcess, "receive", with_text(TrainerProcess.receive, said))
    monkeypatch.setenv("FEDMQ_NOOP", json.dumps({"clients": list(CLIENTS), "shape": [8]}))
    server = play(tmp_path / "run", RoundPolicy(1, 4, 4), {}, generates=True)
    texts = [row["text"] for row in server.journal.generations()]
    assert texts and all(len(text) <= MAX_CONTINUATION and "\x1b" not in text for text in texts)


def with_text(real: Callable[..., list[Any]], text: str) -> Callable[..., list[Any]]:
    def receive(trainer: TrainerProcess) -> list[Any]:
        return [
            dataclasses.replace(answer, texts=tuple(text for _ in answer.texts))
            if isinstance(answer, Texts)
            else answer
            for answer in real(trainer)
        ]

    return receive
