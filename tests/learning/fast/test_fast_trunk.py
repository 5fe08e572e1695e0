"""The cache of frozen layers: computed once, the same in every use, no more than a help."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch

from fedmq.data.shards import TokenSplit, open_split, write_shard
from fedmq.learning.evaluate import evaluate
from fedmq.learning.fast.model import PackedModel
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import Share, train, train_together
from fedmq.recipe import TrainingRecipe

TEXTS = [*tiny.random_texts(12), np.array([0]), *tiny.random_texts(5, seed=8)]


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return stored(tmp_path / "shard", TEXTS)


def stored(folder: Path, texts: Sequence[np.ndarray]) -> TokenSplit:
    write_shard(
        folder,
        kind="client",
        client_id="client_0",
        splits={"train": texts},
        tokenizer_digest="",
        max_length=tiny.POSITIONS,
        eos_token_id=0,
        vocab_size=tiny.VOCAB,
        statistics={},
    )
    return open_split(folder, "train")


def load(
    tokenizer: Tokenizer, *layers: int, kind: str = "gpt2", precision: str = "fp32", dropout: float = 0.0
) -> LanguageModel:
    lora = tiny.spec(kind, layers_to_transform=layers or None, lora_dropout=dropout)
    return tiny.load(tiny.base(kind, dropout=dropout), tokenizer, lora, "fast", precision)


class Computed(NamedTuple):
    """How often layers below the adapters were computed, and for how many tokens."""

    tokens: list[int]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    seen, trunk = Computed([]), PackedModel.trunk

    def counted(self: PackedModel, packed: Any) -> Any:
        seen.tokens.append(len(packed.ids))
        return trunk(self, packed)

    monkeypatch.setattr(PackedModel, "trunk", counted)
    return seen


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_a_cache_it_is_training_the_top_layers(kind: str, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    """Computed in every step and not rounded, the frozen layers are exact: engine "hf" agrees."""
    adapters, losses = [], []
    for engine in ("hf", "fast"):
        lora = tiny.spec(kind, layers_to_transform=(1,))
        lm = tiny.load(tiny.base(kind), tokenizer, lora, engine)
        start = tiny.flat(lm.get_adapter())
        result = train(lm, TEXTS, replace(recipe, learning_rate=2e-3), seed=1)
        adapters.append(tiny.flat(lm.get_adapter()) - start)
        losses.append([record["loss"] for record in result.log_history if "loss" in record])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert tiny.cosine(*adapters) > 0.9999


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_cache_is_what_the_frozen_layers_give(
    kind: str, tokenizer: Tokenizer, split: TokenSplit, recipe: TrainingRecipe, tmp_path: Path, computed: Computed
) -> None:
    lm = load(tokenizer, 1, kind=kind)
    assert lm.packed is not None and lm.packed.first_adapted == 1
    plain = [train(lm, split, recipe, seed=1), evaluate(lm, split, batch_size=4)]
    assert not (tmp_path / "trunks").exists()
    lm.set_adapter(tiny.moving(lm.initial_adapter()))
    lm.keep_trunks(tmp_path / "trunks")
    computed.tokens.clear()
    cached = [train(lm, split, recipe, seed=1), evaluate(lm, split, batch_size=4)]
    assert sum(computed.tokens) == sum(map(len, TEXTS)), "each token once, in all epochs and the evaluation"
    (file,) = (tmp_path / "trunks").iterdir()
    assert file.stat().st_size == 2 * sum(map(len, TEXTS)) * lm.packed.width
    losses = [[record["loss"] for record in result.log_history] for result in (cached[0], plain[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "the cache is rounded to bfloat16"
    assert cached[1].eval_loss == pytest.approx(plain[1].eval_loss, rel=1e-3)
    assert cached[1][1:] == plain[1][1:]
    chosen = [3, 0, 12, 16]
    cache = lm.trunk(split)
    assert cache is not None
    exact = lm.packed.trunk(lm.packed.pack([[split[i] for i in chosen]])).numpy()
    rows = cache.rows(chosen).numpy()
    np.testing.assert_allclose(rows, exact, rtol=2**-8, atol=1e-6)
    assert rows.dtype == np.float32 and np.array_equal(rows, torch.tensor(rows).bfloat16().float().numpy())
    assert cache.rows([]).shape == (0, lm.packed.width)


def test_training_alone_and_together_take_the_same_rows(
    tokenizer: Tokenizer, recipe: TrainingRecipe, tmp_path: Path, computed: Computed
) -> None:
    """Clients of different length: where one is through, its share of a batch is empty."""
    lm = load(tokenizer, 1, dropout=0.1)
    lm.keep_trunks(tmp_path / "trunks")
    splits = [stored(tmp_path / str(k), tiny.random_texts(count, seed=k)) for k, count in enumerate((2, 9, 5))]
    start, outcomes = lm.get_adapter(), train_together(lm, [Share(s, k) for k, s in enumerate(splits)], recipe)
    assert len(list((tmp_path / "trunks").iterdir())) == 3
    computed.tokens.clear()
    for k, (own, outcome) in enumerate(zip(splits, outcomes, strict=True)):
        lm.set_adapter(start)
        alone = train(lm, own, recipe, seed=k)
        assert isinstance(outcome, tuple)
        assert outcome[0].train_loss == pytest.approx(alone.train_loss, rel=1e-4)
        assert tiny.distance(tiny.flat(outcome[1]), tiny.flat(lm.get_adapter())) < 1e-4
    assert computed.tokens == []


def test_another_model_instance_reads_the_file(
    tokenizer: Tokenizer, split: TokenSplit, tmp_path: Path, computed: Computed
) -> None:
    first = load(tokenizer, 1)
    first.keep_trunks(tmp_path / "trunks")
    expected = evaluate(first, split, batch_size=4)
    (file,) = (tmp_path / "trunks").iterdir()
    before = file.stat()
    computed.tokens.clear()
    second = load(tokenizer, 1)
    second.keep_trunks(tmp_path / "trunks")
    assert evaluate(second, split, batch_size=4) == expected
    assert computed.tokens == [] and file.stat().st_mtime_ns == before.st_mtime_ns
    # What a file depends on is in its name: text, weights and their precision.
    other_base = tiny.base("gpt2", initializer_range=0.1)
    third = tiny.load(other_base, tokenizer, tiny.spec("gpt2", layers_to_transform=(1,)), "fast")
    for other in (load(tokenizer, 1, precision="bf16"), third):
        other.keep_trunks(tmp_path / "trunks")
        evaluate(other, split, batch_size=4)
    second.keep_trunks(tmp_path / "trunks")
    evaluate(second, stored(tmp_path / "other", TEXTS[:3]), batch_size=4)
    assert len(list((tmp_path / "trunks").iterdir())) == 4
    assert len(computed.tokens) == 3


def test_a_file_cut_short_is_made_again(tokenizer: Tokenizer, split: TokenSplit, tmp_path: Path) -> None:
    lm = load(tokenizer, 1)
    lm.keep_trunks(tmp_path / "trunks")
    expected = evaluate(lm, split, batch_size=4)
    (file,) = (tmp_path / "trunks").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    lm.keep_trunks(tmp_path / "trunks")
    assert evaluate(lm, split, batch_size=4) == expected
    assert file.read_bytes() == whole and [path.name for path in file.parent.iterdir()] == [file.name]


def test_filling_a_cache_tells_how_far_it_is_and_can_be_ended(
    tokenizer: Tokenizer, split: TokenSplit, tmp_path: Path
) -> None:
    lm, told = load(tokenizer, 1), []
    lm.keep_trunks(tmp_path / "whole", lambda done, total: told.append((done, total)))
    assert lm.trunk(split) is not None
    assert told[-1] == (len(TEXTS), len(TEXTS)) and told == sorted(told)

    def stop(done: int, total: int) -> None:
        raise KeyError("stopped")

    lm.keep_trunks(tmp_path / "ended", stop)
    with pytest.raises(KeyError, match="stopped"):
        lm.trunk(split)
    assert list((tmp_path / "ended").iterdir()) == []


def test_no_cache_where_there_can_be_none(
    tokenizer: Tokenizer, split: TokenSplit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every, lowest, top = load(tokenizer), load(tokenizer, 0), load(tokenizer, 1)
    for lm in (every, lowest, top):
        lm.keep_trunks(tmp_path / "trunks")
    assert every.trunk(split) is lowest.trunk(split) is None, "adapters sit in the lowest layer"
    assert top.trunk(TEXTS) is None, "texts that are no stored split have no name"
    assert not (tmp_path / "trunks").exists() and not caplog.records
    assert tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2"), "hf").trunk(split) is None


@pytest.mark.parametrize("full", ["from the start", "meanwhile"])
def test_no_room_on_the_disk(
    full: str,
    tokenizer: Tokenizer,
    recipe: TrainingRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    computed: Computed,
) -> None:
    """Computed in every step and rounded as in a cache: whether a disk is full decides no result."""
    splits = [stored(tmp_path / str(k), tiny.random_texts(count, seed=k)) for k, count in enumerate((2, 9))]

    def results(lm: LanguageModel) -> list[float]:
        outcomes = train_together(lm, [Share(own, k) for k, own in enumerate(splits)], recipe)
        losses = [outcome[0].train_loss for outcome in outcomes if isinstance(outcome, tuple)]
        return [*losses, evaluate(lm, splits[1], batch_size=4).eval_loss]

    with_room = load(tokenizer, 1)
    with_room.keep_trunks(tmp_path / "room")
    expected = results(with_room)
    usage = shutil.disk_usage(tmp_path)

    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if full == "from the start":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    without = load(tokenizer, 1)
    without.keep_trunks(tmp_path / "trunks")
    computed.tokens.clear()
    with caplog.at_level(logging.WARNING):
        # Only the shapes of the products, and with them their last digits, are others.
        assert results(without) == pytest.approx(expected, rel=1e-5)
    tokens = [sum(map(len, own)) for own in splits]
    assert sum(computed.tokens) == 2 * sum(tokens) + tokens[1], "in both epochs and in the evaluation"
    assert len(caplog.records) == 2, "once for each split"
    for record in caplog.records:
        assert "no room for" in record.getMessage() and "computed in every step" in record.getMessage()
    assert list((tmp_path / "trunks").iterdir()) == []


def test_without_room_a_group_whose_members_end_at_different_steps(
    tokenizer: Tokenizer, recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    lm = load(tokenizer, 1)
    lm.keep_trunks(tmp_path / "trunks")
    splits = [stored(tmp_path / str(k), TEXTS[:count]) for k, count in enumerate((4, 12))]
    together = train_together(lm, [Share(split, k) for k, split in enumerate(splits)], recipe)
    for k, split in enumerate(splits):
        (alone,) = train_together(lm, [Share(split, k)], recipe)
        assert tiny.distance(tiny.flat(together[k][1]), tiny.flat(alone[1])) < 1e-4  # type: ignore[index]


def test_what_a_killed_trainer_left_half_written_is_removed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "trunks").mkdir()
    (tmp_path / "trunks" / "x.trunk.4711.part").write_bytes(b"half")
    load(tokenizer, 1).keep_trunks(tmp_path / "trunks")
    assert not list((tmp_path / "trunks").iterdir())
