"""What a trainer refuses in Setup, before any task: in one line, for good; what it hosts; and how it does a group."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmq.codec import raw
from fedmq.codec.part import start
from fedmq.config import ExperimentConfig
from fedmq.data.shards import write_shard
from fedmq.errors import DataError
from fedmq.learning.models import LanguageModel
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.work import InitWork, TrainWork
from fedmq.recipe import Part, RunSpec
from fedmq.runtime.hosting import host
from fedmq.runtime.pipe import Pipe
from fedmq.runtime.trainer import Trainer

MAX_LENGTH = 32
WHOLE = Part("both", None)


@pytest.fixture(scope="module")
def run() -> RunSpec:
    torch.set_num_threads(1)
    settings = {"model": {"model_name": "fedmq-tiny", "max_length": MAX_LENGTH}, "generation": {"max_new_tokens": 8}}
    return ExperimentConfig.from_dict(settings).to_run_spec()


@pytest.fixture(scope="module")
def model(run: RunSpec) -> LanguageModel:
    return LanguageModel.load("fedmq-tiny", run.lora, max_length=MAX_LENGTH, seed=1, device="cpu")


@pytest.fixture
def shard(model: LanguageModel, tmp_path: Path) -> Callable[..., link.Source]:
    tokenizer = model.tokenizer

    def make(name: str, client: str | None = None, texts: int = 10) -> link.Source:
        split = "test" if client is None else "train"
        eos = tokenizer.eos_token_id
        # The first text has nothing to predict.
        splits = {split: [np.array([eos]), *(np.array([*range(5, 6 + k), eos]) for k in range(texts - 1))]}
        write_shard(
            tmp_path / name,
            kind="test" if client is None else "client",
            client_id=client,
            splits=splits,
            tokenizer_digest=tokenizer.digest,
            max_length=MAX_LENGTH,
            eos_token_id=eos,
            vocab_size=tokenizer.vocab_size,
            statistics={},
        )
        return link.Source(str(tmp_path / name), None)

    return make


def connected() -> Pipe:
    """The agent's end of a pipe to a real trainer, in a thread of this process."""
    to_trainer, to_agent = os.pipe(), os.pipe()
    agent = Pipe(to_agent[0], to_trainer[1], link.TO_AGENT, link.TO_TRAINER)
    trainer = Trainer(Pipe(to_trainer[0], to_agent[1], link.TO_TRAINER, link.TO_AGENT))
    threading.Thread(target=trainer.run, daemon=True).start()
    # The pipe stays open: at its end a trainer ends its process, which here is ours.
    _kept.append(agent)
    return agent


_kept: list[Pipe] = []


def answer(setup: link.Setup) -> Any:
    """What it says to Setup."""
    agent = connected()
    agent.send(setup)
    return agent.receive()[0]


def setup(run: RunSpec, tmp_path: Path, *sources: link.Source, device: str = "cpu", model: str | None = None) -> Any:
    return link.Setup(run, sources, device, model, None, str(tmp_path), None, str(tmp_path / "states"), "")


def test_a_precision_that_the_device_has_not(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(replace(run, training=replace(run.training, precision="fp16")), tmp_path))
    assert (failed.code, failed.task) == ("MODEL", None)
    assert "needs a CUDA device" in failed.text and "\n" not in failed.text


def test_prompts_that_are_too_long_for_the_base(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(replace(run, generation=replace(run.generation, max_new_tokens=100_000)), tmp_path))
    assert (failed.code, failed.task) == ("MODEL", None)
    assert "with max_new_tokens 100000 that is more than the model's" in failed.text


def test_data_that_is_no_data(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(run, tmp_path, link.Source(str(tmp_path / "nowhere"), None)))
    assert (failed.code, failed.task) == ("DATA", None)


def test_loaded_announces_the_examples_that_are_used(
    run: RunSpec, tmp_path: Path, shard: Callable[..., link.Source]
) -> None:
    source = shard("a", "client_a")
    (every,) = answer(setup(run, tmp_path, source)).clients
    assert (every.num_examples, every.num_tokens) == (9, sum(k + 2 for k in range(9)))
    capped = replace(run, training=replace(run.training, max_samples_per_client=4))
    (some,) = answer(setup(capped, tmp_path, source)).clients
    assert some.num_examples == 4 and some.num_tokens < every.num_tokens
    assert some.data_digest == every.data_digest


def test_the_local_place_of_the_base_stays_local(run: RunSpec, tmp_path: Path) -> None:
    from fedmq.learning.tokenizer import BUNDLED

    place = str(BUNDLED["fedmq-tiny"])
    lm = LanguageModel.load(place, run.lora, max_length=MAX_LENGTH, seed=1, device="cpu", known_as="org/base")
    assert lm.adapter_config()["base_model_name_or_path"] == "org/base"
    assert place not in str(lm.adapter_config())


def test_one_test_shard_and_each_client_once(
    run: RunSpec, model: LanguageModel, tmp_path: Path, shard: Callable[..., link.Source]
) -> None:
    a, b, test, other = shard("a", "client_a"), shard("b", "client_b"), shard("t"), shard("t2", texts=4)
    hosted = host([b, test, a], model, run, tmp_path, None)
    assert [client.client for client in hosted.announced] == ["client_a", "client_b"]
    assert hosted.test is not None
    with pytest.raises(DataError, match="t2: a second test shard"):
        host([a, test, other], model, run, tmp_path, None)
    with pytest.raises(DataError, match="client_a was given twice"):
        host([a, a], model, run, tmp_path, None)
    with pytest.raises(DataError, match="e: client client_e has no text of two tokens or more"):
        host([a, shard("e", "client_e", texts=1)], model, run, tmp_path, None)


# --- a group ---------------------------------------------------------------------------------------


class Group:
    """A trainer that has loaded, and trainings of clients of 2 and 20 texts for it."""

    def __init__(self, run: RunSpec, folder: Path, *sources: link.Source) -> None:
        self.folder = folder
        self.agent = connected()
        self.agent.send(setup(run, folder, *sources))
        (loaded,) = self.agent.receive()
        self.clients = [client.client for client in loaded.clients]
        self.recipe = replace(run.training, num_epochs=1, batch_size=4, warmup_steps=0, num_threads=1)

    def begin(self, *clients: str, parts: tuple[Part, ...] = (), **recipe: Any) -> None:
        tasks = tuple(
            m.Task(
                *(f"train-1-{client}-0", "cd" * 16, 1, client, 7, m.BlobRef("ab" * 32, 1)),
                TrainWork("train", replace(self.recipe, **recipe), part),
                *(None, None, None),
            )
            for client, part in zip(clients, parts or [WHOLE] * len(clients), strict=True)
        )
        adapter = self.folder / "adapter"
        if not adapter.exists():
            first = m.Task("init-0-adapter-0", "cd" * 16, 0, None, 7, None, InitWork("init"), None, None, None)
            self.agent.send(link.Begin((first,), None, None, (str(adapter),)))
            self.answers(1)
        self.agent.send(link.Begin(tasks, str(adapter), None, tuple(str(self.folder / t.task) for t in tasks)))

    def answers(self, number: int) -> dict[str, Any]:
        """By task; progress is left out."""
        found: dict[str, Any] = {}
        while len(found) < number:
            found |= {a.task: a for a in self.agent.receive() if not isinstance(a, link.Stepped)}
        return found


@pytest.fixture
def group(run: RunSpec, tmp_path: Path, shard: Callable[..., link.Source]) -> Group:
    return Group(run, tmp_path, shard("a", "client_a", texts=3), shard("b", "client_b", texts=21))


def test_each_of_a_group_is_answered_for(group: Group) -> None:
    group.begin(*group.clients)
    trained = group.answers(2)
    assert {t: a.num_examples for t, a in trained.items()} == {"train-1-client_a-0": 2, "train-1-client_b-0": 20}
    for task, found in trained.items():
        assert hashlib.sha256((group.folder / task).read_bytes()).hexdigest() == found.digest
    assert len({found.digest for found in trained.values()}) == 2
    group.begin(*group.clients)
    assert {t: a.digest for t, a in group.answers(2).items()} == {t: a.digest for t, a in trained.items()}


def test_an_update_holds_the_part_that_is_asked_for(group: Group) -> None:
    """Clients of one group need not have the same."""
    group.begin(*group.clients, parts=(Part("B", None), Part("B", 3)), factors="B")
    adapter = raw.read_spec((group.folder / "adapter").read_bytes())
    whole = {name: kind for name, kind in adapter.items() if ".lora_B." in name}
    smaller = {name: (dtype, (rows, 3)) for name, (dtype, (rows, _)) in whole.items()}
    for (task, trained), expected in zip(sorted(group.answers(2).items()), (whole, smaller), strict=True):
        content = (group.folder / task).read_bytes()
        assert raw.read_spec(content) == expected
        assert (trained.nbytes, trained.digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_client_of_a_smaller_rank_starts_from_its_rows_and_columns(group: Group) -> None:
    """As if the others were 0 in the task's adapter."""
    part, adapter = Part("both", 3), group.folder / "adapter"

    def trained(*parts: Part) -> dict[str, np.ndarray]:
        group.begin("client_b", parts=parts)
        (task,) = group.answers(1)
        content = (group.folder / task).read_bytes()
        return raw.decode(content, raw.read_spec(content))

    ours = trained(part)
    content = adapter.read_bytes()
    adapter.write_bytes(raw.encode(start(part, raw.decode(content, raw.read_spec(content)))))
    for name, value in trained().items():
        assert np.array_equal(ours[name], value[:3] if ".lora_A." in name else value[:, :3])


def test_a_trainer_that_cannot_write_ends_its_worker(group: Group) -> None:
    """Whatever it was given next would fail as well; /dev/full is a disk without space."""
    group.begin(*group.clients)
    group.answers(2)
    for client in group.clients:
        target = group.folder / f"train-1-{client}-0"
        target.unlink()
        target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    group.begin(*group.clients)
    (failed,) = group.answers(1).values()
    assert (failed.task, failed.code) == (None, "ERROR")
    assert f"{group.folder} cannot be written (No space left on device)" in failed.text


def test_one_that_diverges_fails_alone(group: Group) -> None:
    """Its only step leaves the first client's loss what it was; the other's next step sees no number."""
    group.begin(*group.clients, learning_rate=1e30, max_grad_norm=0.0)
    answers = group.answers(2)
    assert isinstance(answers["train-1-client_a-0"], link.Trained)
    failed = answers["train-1-client_b-0"]
    assert (type(failed), failed.code) == (link.Failed, "NONFINITE")


def test_what_fails_all_of_a_group_is_said_of_each(group: Group) -> None:
    group.begin("client_a", "client_x", "client_b")
    assert {t: a.code for t, a in group.answers(3).items()} == {
        f"train-1-client_{k}-0": "ERROR" for k in ("a", "b", "x")
    }
    group.begin("client_b")
    assert isinstance(group.answers(1)["train-1-client_b-0"], link.Trained), "the trainer goes on"


def test_memory_that_cannot_be_had_is_said_as_such(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's own error; whether halves of a batch are tried first is the engine's concern."""
    monkeypatch.setattr("fedmq.runtime.trainer.train_clients", lambda *args, **options: torch.empty(1 << 50))
    group.begin(*group.clients)
    assert {answer.code for answer in group.answers(2).values()} == {"OOM"}


def test_a_group_is_stopped_whole(group: Group) -> None:
    group.begin(*group.clients, num_epochs=10_000)
    while not any(isinstance(message, link.Stepped) for message in group.agent.receive()):
        pass
    group.agent.send(link.Halt())
    assert {a.code for a in group.answers(2).values()} == {"CANCELLED"}
