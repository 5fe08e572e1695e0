"""Clients' own models at a worker: B is in what they remember, in a folder of their own, in nothing that is sent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from serving import adapter

from fedmq.algorithms.lora_core import of_factors
from fedmq.algorithms.personal import OWN, kept_part
from fedmq.codec.update import update_codec
from fedmq.config import ExperimentConfig
from fedmq.data.shards import write_shard
from fedmq.errors import DataError
from fedmq.learning.adapter_folder import read_adapter
from fedmq.learning.models import LanguageModel
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.work import EvaluateWork, InitWork, TrainWork
from fedmq.recipe import CodecSpec, Part, RunSpec
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.hosting import evaluate_unit, host
from fedmq.runtime.packing import memory_of, pack
from fedmq.runtime.pipe import Pipe
from fedmq.runtime.trainer import Trainer

NONCE = "cd" * 16
#: of what is shared
WHOLE = Part("both", None)


@pytest.fixture(scope="module")
def run() -> RunSpec:
    spec = ExperimentConfig.from_dict(
        {
            "model": {"model_name": "fedmq-tiny", "max_length": 32},
            "federated": {"lora_aggregation": "fedsa"},
            "training": {"num_epochs": 1, "batch_size": 4, "warmup_steps": 0, "num_threads": 1},
            "generation": {"max_new_tokens": 8},
        }
    ).to_run_spec()
    return replace(spec, training=replace(spec.training, learning_rate=0.01))


@pytest.fixture(scope="module")
def model(run: RunSpec) -> LanguageModel:
    return LanguageModel.load("fedmq-tiny", run.lora, max_length=32, seed=1, device="cpu")


@pytest.fixture
def shard(model: LanguageModel, tmp_path: Path) -> Callable[..., link.Source]:
    def make(name: str, client: str | None, **splits: int) -> link.Source:
        """Splits of so many texts each, of two tokens and more."""
        eos = model.tokenizer.eos_token_id
        write_shard(
            tmp_path / name,
            kind="test" if client is None else "client",
            client_id=client,
            splits={s: [np.array([*range(5, 7 + k), eos]) for k in range(count)] for s, count in splits.items()},
            tokenizer_digest=model.tokenizer.digest,
            max_length=32,
            eos_token_id=eos,
            vocab_size=model.tokenizer.vocab_size,
            statistics={},
        )
        return link.Source(str(tmp_path / name), None)

    return make


class Desk:
    """An agent's end of real trainers, one after the other, on the same folders."""

    def __init__(self, run: RunSpec, folder: Path, *sources: link.Source) -> None:
        self._run, self.folder, self._sources = run, folder, sources
        self._kept: list[Pipe] = []
        self.restart()

    def restart(self) -> None:
        to_trainer, to_agent = os.pipe(), os.pipe()
        self._agent = Pipe(to_agent[0], to_trainer[1], link.TO_AGENT, link.TO_TRAINER)
        self._kept.append(self._agent)  # at the end of a pipe its trainer ends its process, which here is ours
        trainer = Trainer(Pipe(to_trainer[0], to_agent[1], link.TO_TRAINER, link.TO_AGENT))
        threading.Thread(target=trainer.run, daemon=True).start()
        places = (str(self.folder), None, str(self.folder / "states"), str(self.folder / "personal"))
        self._agent.send(link.Setup(self._run, self._sources, "cpu", None, None, *places))
        (self.loaded,) = self._answers(1)

    def _answers(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            found += [answer for answer in self._agent.receive() if not isinstance(answer, link.Stepped)]
        return found

    def init(self) -> Path:
        task = m.Task("init-0-adapter-0", NONCE, 0, None, 7, None, InitWork("init"), None, None, None)
        self._agent.send(link.Begin((task,), None, None, (str(self.folder / "first"),)))
        self._answers(1)
        return self.folder / "first"

    def train(self, start: Path, round: int, follows: dict[str, m.Folded | None]) -> dict[str, m.Folded]:
        """Clients together; their updates, at folder/train-ROUND-CLIENT-0."""
        work, blob = TrainWork("train", self._run.training, WHOLE), m.BlobRef("ab" * 32, 1)
        tasks = tuple(
            m.Task(f"train-{round}-{client}-0", NONCE, round, client, 7, blob, work, before, None, None)
            for client, before in follows.items()
        )
        self._agent.send(link.Begin(tasks, str(start), None, tuple(str(self.folder / task.task) for task in tasks)))
        answers = {answer.task: answer for answer in self._answers(len(tasks))}
        return {task.client or "": m.Folded(round, answers[task.task].digest) for task in tasks}

    def evaluate(self, start: Path, version: int, client: str, follows: m.Folded | None) -> Any:
        work, blob = EvaluateWork("evaluate", client, 4), m.BlobRef("ab" * 32, 1)
        task = m.Task(f"evaluate-{version}-{client}-0", NONCE, version, client, 7, blob, work, follows, None, None)
        self._agent.send(link.Begin((task,), str(start), None, (str(self.folder / "none"),)))
        return self._answers(1)[0]


@pytest.fixture
def desk(run: RunSpec, tmp_path: Path, shard: Callable[..., link.Source]) -> Desk:
    a, b = shard("a", "client_a", train=9, val=3), shard("b", "client_b", train=6, val=2)
    return Desk(run, tmp_path, a, b, shard("t", None, test=4))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_b_stays_and_goes_on(desk: Desk, model: LanguageModel) -> None:
    assert not desk.loaded.evaluates_test, "there is no model of all to be scored"
    assert [client.num_held_out for client in desk.loaded.clients] == [3, 2]
    first, whole = desk.init(), model.initial_adapter()
    assert load_file(first).keys() == of_factors(whole, "A").keys()
    assert isinstance(desk.evaluate(first, 0, "client_a", None), link.Scored)
    assert not (desk.folder / "personal").exists(), "it is the base"

    updates = desk.train(first, 1, {"client_a": None, "client_b": None})
    for client in updates:
        assert load_file(desk.folder / f"train-1-{client}-0").keys() == load_file(first).keys()
    second = {c: u.digest for c, u in desk.train(first, 2, dict(updates)).items()}
    remembered = files(desk.folder / "states")
    assert len(remembered) == 4 and len(set(remembered.values())) == 4

    desk.restart()  # it knows nothing but what is on disk
    assert {c: u.digest for c, u in desk.train(first, 2, dict(updates)).items()} == second
    assert files(desk.folder / "states") == remembered
    anew = {c: u.digest for c, u in desk.train(first, 2, {"client_a": None, "client_b": None}).items()}
    assert not {*anew.values()} & {*second.values()}, "what they keep does matter"

    base = desk.evaluate(first, 0, "client_a", None)
    mine = desk.evaluate(first, 2, "client_a", m.Folded(2, second["client_a"]))
    assert isinstance(mine, link.Scored) and mine.num_tokens == base.num_tokens and mine.loss_sum < base.loss_sum
    late = desk.evaluate(first, 1, "client_a", updates["client_a"])
    assert isinstance(late, link.Scored), "the round before may still be scored"
    (kept,) = (desk.folder / "personal").glob("client_*/round_*")
    assert kept.relative_to(desk.folder / "personal") == Path("client_a/round_2"), "the newest"
    tensors, config = read_adapter(kept)
    assert tensors.keys() == whole.keys() and config["peft_type"] == "LORA"
    (state,) = (desk.folder / "states" / "client_a").glob(f"round_2-{second['client_a']}*.safetensors")
    for name, value in load_file(state).items():
        assert np.array_equal(tensors[name.removeprefix(f"training:{OWN}")], value), name
    for name, value in load_file(first).items():
        assert np.array_equal(tensors[name], value), name

    gone = desk.evaluate(first, 2, "client_b", m.Folded(2, "ef" * 32))
    assert (gone.code, gone.text) == ("DATA", "what client_b kept for itself of round 2 is not here")


def test_who_lost_its_own_begins_at_0_and_says_so(tmp_path: Path) -> None:
    states, codec = ClientStates(tmp_path / "states"), update_codec(CodecSpec("sign", None, None, None))
    before, after = adapter(1), adapter(2)
    base, local = of_factors(before, "A"), of_factors(after, "A")
    recipe = ExperimentConfig().to_run_spec().training
    work = TrainWork("train", recipe, WHOLE)
    task = m.Task("train-1-client_a-0", NONCE, 1, "client_a", 7, None, work, None, None, None)
    packed = pack(task, local, base, kept_part(after, "A"), codec, states, tmp_path / "update")
    assert not packed.state_lost
    assert codec.decode((tmp_path / "update").read_bytes(), base).keys() == base.keys()
    follows = m.Folded(1, packed.digest)
    known = states.recall("client_a", follows) or {}
    assert sorted(known) == ["training:own:h.0.attn.lora_B.weight", "upload:h.0.attn.lora_A.weight"]
    task = replace(task, round=2, follows=follows)
    assert memory_of(task, states).keys() == kept_part(after, "A").keys()
    elsewhere = ClientStates(tmp_path / "other")
    assert memory_of(task, elsewhere) == {}
    assert pack(task, local, base, kept_part(after, "A"), codec, elsewhere, tmp_path / "update").state_lost


def test_what_there_is_to_score(
    run: RunSpec, model: LanguageModel, tmp_path: Path, shard: Callable[..., link.Source]
) -> None:
    """An owner's own test split; else what a partition put aside for the client."""
    both, val = shard("a", "client_a", train=3, val=2, test=4), shard("b", "client_b", train=3, val=2)
    hosted = host([both, val, shard("t", None, test=5)], model, run, tmp_path, None)
    assert [client.num_held_out for client in hosted.announced] == [4, 2] and hosted.test is None
    model.set_adapter(model.initial_adapter())
    assert [evaluate_unit(hosted, model, f"client_{x}", 4, print).num_examples for x in "ab"] == [4, 2]
    with pytest.raises(DataError, match=r'n: client client_n has no held-out text.*"fedsa".*raise data\.val_split'):
        host([shard("n", "client_n", train=3, val=0)], model, run, tmp_path, None)
    shared = replace(run, training=replace(run.training, shared="both"))
    assert [client.num_held_out for client in host([both, val], model, shared, tmp_path, None).announced] == [4, 0]


def test_alone_nothing_goes_out_and_nothing_comes_in(
    run: RunSpec, tmp_path: Path, shard: Callable[..., link.Source]
) -> None:
    """lora_aggregation local: a client ends with the same bits whoever else trains, and is scored on its test split."""
    spec = replace(run, training=replace(run.training, shared="none"))
    a, b = shard("a", "client_a", train=9, val=3, test=5), shard("b", "client_b", train=6, val=2, test=5)
    ends: dict[bool, dict[str, np.ndarray]] = {}
    for others in (True, False):
        folder = tmp_path / f"others_{others}"
        folder.mkdir()
        desk = Desk(spec, folder, a, *([b] if others else []))
        first = desk.init()
        assert load_file(first) == {}
        mine: m.Folded | None = None
        for round in (1, 2):
            if others:
                desk.train(first, round, {"client_b": None})
            mine = desk.train(first, round, {"client_a": mine})["client_a"]
            assert load_file(folder / f"train-{round}-client_a-0") == {}
        scores = [desk.evaluate(first, 2, "client_a", follows) for follows in (None, mine)]
        assert [score.num_examples for score in scores] == [5, 5] and scores[0].loss_sum != scores[1].loss_sum
        ends[others] = load_file(folder / "personal" / "client_a" / "round_2" / "adapter_model.safetensors")
    assert len(ends[True]) > 2 and all((ends[True][name] == value).all() for name, value in ends[False].items())
