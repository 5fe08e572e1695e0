"""A federation of real processes on loopback: with trainers that compute nothing, and with a tiny model."""

from __future__ import annotations

import csv
import json
import random
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_once import made_once
from running import FEDMQ, NOOP_WORKER, Gate, Running, fedmq

SENTENCES = [
    "@AcmeSupport my order {} has not arrived yet, can you help me please?",
    "The app crashes every time I open page {} of my account",
    "Thanks for the quick reply about {}, the update fixed it!",
    "My flight {} was cancelled & nobody at the desk could tell me why.",
    "How long does a refund of {} take? It has been two weeks now.",
    "Please restart phone {} and try again, that should do it.",
    "Worst service ever, ticket {}, I want to talk to a human.",
    "Parcel {} is on its way and will arrive on Monday.",
]


class Federation:
    """Processes of one test in one folder; all are gone when the test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Running] = []

    def config(self, name: str = "run", **sections: Any) -> Path:
        """A config file whose run goes to folder/NAME."""
        path = self.folder / f"{name}.json"
        places = {"output_dir": str(self.folder / name), "log_dir": str(self.folder / f"{name}_logs"), "device": "cpu"}
        path.write_text(json.dumps(places | sections))
        return path

    def start(self, *command: object, **env: str) -> Running:
        """Any command."""
        process = Running(list(command), self.folder, **env)
        self._started.append(process)
        return process

    def fedmq(self, *arguments: object, **env: str) -> Running:
        """`fedmq ARGUMENTS`, in the background."""
        return self.start(*FEDMQ, *arguments, **env)

    def coordinator(
        self, config: Path, *arguments: object, port: int = 0, command: Sequence[object] = FEDMQ, **env: str
    ) -> Coordinating:
        """`fedmq coordinator CONFIG`, listening."""
        bind = ("--bind", f"tcp://127.0.0.1:{port}")
        process = self.start(*command, "coordinator", config, *bind, *arguments, **env)
        return Coordinating(process, process.wait_line(r"^listening on (tcp://\S+):")[1])

    def noop_worker(
        self,
        address: str,
        name: str,
        env: Mapping[str, str] = {},
        keys: Sequence[Path] = (),
        program: Path = NOOP_WORKER,
        **options: Any,
    ) -> Running:
        """A worker agent whose trainer computes nothing; `options` as in benchmarks/noop_trainer.py.

        Without evaluations a run has no plot, which takes longer than all the rest of it.
        """
        options = {"clients": ["client_0", "client_1"], "shape": [64], "evaluates": False} | options
        command = (sys.executable, program, address, name, self.folder / "noop" / name, *keys)
        return self.start(*command, FEDMQ_NOOP=json.dumps(options), **env)

    def gate(self, name: str) -> Gate:
        """A new gate."""
        return Gate(self.folder / f"{name}.gate")

    def end(self) -> None:
        """Kill what still runs; what each said is shown when the test failed."""
        for process in reversed(self._started):
            process.clean_up()
            print(f"=== {' '.join(process.command)}\n{process.output()}")


class Coordinating:
    """A coordinator and where it listens."""

    def __init__(self, process: Running, address: str) -> None:
        self.process, self.address = process, address
        self.port = int(address.rpartition(":")[2])

    def ended_well(self) -> str:
        """Wait for its end, which must be a good one; returns the digest that it printed."""
        assert self.process.end() == 0, self.process.output()
        return self.process.wait_line(r"^adapter SHA-256 ([0-9a-f]{64})$")[1]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    started = Federation(tmp_path)
    yield started
    started.end()


def digest_once(factory: pytest.TempPathFactory, name: str, run: Callable[[Federation], str]) -> str:
    """The digest that `run` returns of a federation of its own."""

    def make(folder: Path) -> None:
        federation = Federation(folder)
        try:
            (folder / "digest").write_text(run(federation))
        finally:
            federation.end()

    return (made_once(factory, name, make) / "digest").read_text()


@pytest.fixture(scope="module")
def free_port() -> int:
    """A port that nobody had a moment ago, for processes that must agree on it beforehand."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two small layers with a byte-level tokenizer of its own: a folder, as a user may have one."""
    return made_once(tmp_path_factory, "tiny-gpt2", _make_gpt2)


def _make_gpt2(folder: Path) -> None:
    import tokenizers
    import torch
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.train_from_iterator(
        SENTENCES,
        tokenizers.trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    config = transformers.GPT2Config(
        vocab_size=400, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    ).save_pretrained(folder)


def write_tweets(path: Path, rows: int, seed: int = 0, authors: int = 6) -> Path:
    """A CSV in the schema of the Twitter customer support data; every row passes the default filters."""
    draw = random.Random(seed)
    header = ["tweet_id", "author_id", "inbound", "created_at", "text", "response_tweet_id", "in_response_to_tweet_id"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in range(rows):
            text = draw.choice(SENTENCES).format(1000 * seed + row)
            writer.writerow([row, 100 + draw.randrange(authors), True, "Tue Oct 31 2017", text, "", ""])
    return path


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Callable[..., dict[str, Any]]:
    """Sections of a config whose real rounds take a second: 3 clients of different sizes, 2 in each of 2 rounds."""
    tweets = made_once(tmp_path_factory, "tweets", lambda folder: write_tweets(folder / "tweets.csv", 120))

    def settings(**federated: Any) -> dict[str, Any]:
        return {
            "device": "cpu",
            "seed": 7,
            "model": {"model_name": str(tiny_gpt2), "max_length": 24},
            "lora": {"r": 2, "lora_alpha": 4},
            "training": {
                "num_epochs": 1,
                "batch_size": 8,
                "learning_rate": 0.01,
                "warmup_steps": 0,
                "eval_steps": 2,
                "num_threads": 1,
            },
            "federated": {
                "num_clients": 3,
                "clients_per_round": 2,
                "num_rounds": 2,
                "save_every": 1,
                "data_distribution": "by_author",
                "min_samples_per_client": 1,
            }
            | federated,
            "data": {"dataset_path": str(tweets / "tweets.csv")},
            "generation": {"prompts": ["My order", "Thanks"], "max_new_tokens": 8},
        }

    return settings


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Callable[..., dict[str, Any]]) -> Path:
    """A folder in which `fedmq run config.json --workers 1` has run: run/, logs/, and what it printed."""

    def run(folder: Path) -> None:
        config = tiny_settings() | {"output_dir": "run", "log_dir": "logs"}
        (folder / "config.json").write_text(json.dumps(config))
        done = fedmq("run", "config.json", "--workers", 1, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    return made_once(tmp_path_factory, "finished", run)


@pytest.fixture
def bad_network(federation: Federation) -> Iterator[Callable[..., Any]]:
    """Starts `BadNetwork`s; what the proxies did is shown when the test failed."""
    from bad_network import BadNetwork

    started: list[BadNetwork] = []

    def start(*arguments: Any, **options: Any) -> BadNetwork:
        started.append(BadNetwork(federation, *arguments, **options))
        return started[-1]

    yield start
    for network in started:
        network.proxy.close()
        for line in network.proxy.lines.items():
            print(*line)
