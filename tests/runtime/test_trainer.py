"""What a trainer refuses in Setup, before any task: in one line, for good; and what it hosts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmq.config import ExperimentConfig
from fedmq.data.shards import write_shard
from fedmq.errors import DataError
from fedmq.learning.models import LanguageModel
from fedmq.protocol import trainer_link as link
from fedmq.recipe import RunSpec
from fedmq.runtime.hosting import host
from fedmq.runtime.pipe import Pipe
from fedmq.runtime.trainer import Trainer

MAX_LENGTH = 32


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


def answer(setup: link.Setup) -> Any:
    """What a real trainer, in a thread of this process, says to Setup."""
    to_trainer, to_agent = os.pipe(), os.pipe()
    agent = Pipe(to_agent[0], to_trainer[1], link.TO_AGENT, link.TO_TRAINER)
    trainer = Trainer(Pipe(to_trainer[0], to_agent[1], link.TO_TRAINER, link.TO_AGENT))
    threading.Thread(target=trainer.run, daemon=True).start()
    agent.send(setup)
    # The pipe stays open: at its end a trainer ends its process, which here is ours.
    _kept.append(agent)
    return agent.receive()[0]


_kept: list[Pipe] = []


def setup(run: RunSpec, tmp_path: Path, *sources: link.Source, device: str = "cpu", model: str | None = None) -> Any:
    return link.Setup(run, sources, device, model, None, str(tmp_path), None)


def test_a_precision_that_the_device_has_not(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(replace(run, training=replace(run.training, precision="fp16")), tmp_path))
    assert (failed.code, failed.fatal) == ("MODEL", True)
    assert "needs a CUDA device" in failed.text and "\n" not in failed.text


def test_prompts_that_are_too_long_for_the_base(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(replace(run, generation=replace(run.generation, max_new_tokens=100_000)), tmp_path))
    assert (failed.code, failed.fatal) == ("MODEL", True)
    assert "with max_new_tokens 100000 that is more than the model's" in failed.text


def test_data_that_is_no_data(run: RunSpec, tmp_path: Path) -> None:
    failed = answer(setup(run, tmp_path, link.Source(str(tmp_path / "nowhere"), None)))
    assert (failed.code, failed.fatal) == ("DATA", True)


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
