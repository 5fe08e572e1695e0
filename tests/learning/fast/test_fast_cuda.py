"""Engine "fast" on a CUDA device: what it computes on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from fedmq.data.shards import open_split, write_shard
from fedmq.learning.evaluate import evaluate
from fedmq.learning.fast.card import Card
from fedmq.learning.fast.passes import Batch
from fedmq.learning.generate import generate
from fedmq.learning.models import LanguageModel
from fedmq.learning.precision import faster_dtype, require_precision
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import Share, train, train_together
from fedmq.recipe import Factors, TrainingRecipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TEXTS = tiny.random_texts(12)
KINDS = ["gpt2", "llama", "qwen2"]
CUDA = "cuda:0"


def load(
    kind: str,
    tokenizer: Tokenizer,
    device: str = CUDA,
    precision: str = "fp32",
    engine: str = "fast",
    p: float = 0.0,
    core: bool = False,
) -> LanguageModel:
    lora = tiny.spec(kind, lora_dropout=p, core=core)
    return tiny.load(tiny.base(kind, dropout=p), tokenizer, lora, engine, precision, device)


def passed(lm: LanguageModel, number: int) -> tuple[list[float], np.ndarray]:
    """Losses and gradients of two clients in the pass with this number."""
    assert lm.packed is not None
    card = lm.passes if isinstance(lm.passes, Card) else Card(lm.packed)
    adapters = card.adapters([lm.get_adapter()] * 2)
    adapters.grad.zero_()
    texts = [TEXTS, tiny.random_texts(7)]
    losses = card.backward(adapters, Batch(texts, [100, 50], [3, 4], number, None), False)
    return losses, adapters.grad.cpu().numpy().astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_float32_as_on_the_cpu(kind: str, p: float, tokenizer: Tokenizer) -> None:
    """Dropout too, whose masks are the same. The first pass is not recorded, the second is, the third starts that."""
    on_cpu, on_card = load(kind, tokenizer, "cpu", p=p), load(kind, tokenizer, p=p)
    for number in range(3):
        expected_losses, expected = passed(on_cpu, number)
        losses, found = passed(on_card, number)
        assert losses == pytest.approx(expected_losses, rel=1e-4)
        assert tiny.distance(found, expected) < 1e-3


def test_what_was_recorded_reads_other_weights_and_adapters(tokenizer: Tokenizer) -> None:
    on_cpu, on_card = load("gpt2", tokenizer, "cpu"), load("gpt2", tokenizer)
    for round in range(3):
        for lm in (on_cpu, on_card):
            assert lm.packed is not None
            weight = torch.full((32, 128), 0.01 * round, device=lm.device)
            lm.packed.frozen.replace("transformer.h.0.mlp.c_fc", weight)
            lm.set_adapter({name: value * 0.9 for name, value in lm.get_adapter().items()})
        for number in range(3):
            (_, expected), (_, found) = passed(on_cpu, number), passed(on_card, number)
            assert tiny.distance(found, expected) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind: str, tokenizer: Tokenizer) -> None:
    if not torch.cuda.is_bf16_supported():
        pytest.skip("a card without bfloat16")
    expected_loss, expected = tiny.hf_gradient(load(kind, tokenizer, engine="hf"), TEXTS)
    lm = load(kind, tokenizer, precision="bf16")
    loss, gradient = tiny.fast_gradient(lm, TEXTS)
    assert loss == pytest.approx(expected_loss, rel=1e-3)
    assert tiny.cosine(gradient, expected) > 0.999
    assert evaluate(lm, TEXTS, batch_size=4).eval_loss == pytest.approx(expected_loss, rel=1e-3)


@pytest.mark.parametrize("factors", ["both", "R"])
def test_fifty_steps_as_engine_hf(factors: Factors, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    recipe = replace(recipe, num_epochs=17, learning_rate=2e-3, factors=factors)
    losses, adapters = [], []
    for engine in ("hf", "fast"):
        lm = load("gpt2", tokenizer, engine=engine, core=factors == "R")
        start = tiny.flat(lm.get_adapter())
        losses.append([r["loss"] for r in train(lm, TEXTS, recipe, seed=7).log_history if "loss" in r])
        adapters.append(tiny.flat(lm.get_adapter()) - start)
    assert len(losses[0]) == 51 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert tiny.cosine(*adapters) > 0.9999


def test_half_precision_is_bfloat16_where_the_card_has_it(tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    recipe = replace(recipe, fp16=True, precision="auto", num_epochs=1)
    precision = require_precision(recipe, CUDA)
    assert precision == ("bf16" if torch.cuda.is_bf16_supported() else "fp16")
    lm = load("gpt2", tokenizer, precision=precision, engine="auto")
    assert (lm.packed is not None) == (precision == "bf16")
    assert np.isfinite(train(lm, TEXTS, recipe, seed=1).train_loss)
    assert faster_dtype(CUDA, 64) in (torch.float32, torch.bfloat16)


def test_a_group_gives_each_client_its_own(tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    lm, recipe = load("gpt2", tokenizer, p=0.1), replace(recipe, learning_rate=2e-3)
    start, shares = lm.get_adapter(), [Share(tiny.random_texts(n, seed=n), n) for n in (3, 9, 1, 6)]
    for share, outcome in zip(shares, train_together(lm, shares, recipe), strict=True):
        lm.set_adapter(start)
        alone = train(lm, share.texts, recipe, seed=share.seed)
        assert isinstance(outcome, tuple)
        assert outcome[0].train_loss == pytest.approx(alone.train_loss, rel=1e-4)
        assert tiny.distance(tiny.flat(outcome[1]), tiny.flat(lm.get_adapter())) < 1e-4


def test_checkpointing(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer, p=0.2)
    plain, again = (tiny.fast_gradient(lm, TEXTS, seed=3, checkpointing=c)[1] for c in (False, True))
    assert tiny.distance(again, plain) < 1e-5


def test_the_cache_of_frozen_layers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shard(
        tmp_path / "shard",
        kind="test",
        client_id=None,
        splits={"test": TEXTS},
        tokenizer_digest="",
        max_length=tiny.POSITIONS,
        eos_token_id=0,
        vocab_size=tiny.VOCAB,
        statistics={},
    )
    split = open_split(tmp_path / "shard", "test")
    lm = tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2", layers_to_transform=(1,)), "fast", "fp32", CUDA)
    plain = evaluate(lm, split, batch_size=4).eval_loss
    lm.keep_trunks(tmp_path / "trunks")
    assert evaluate(lm, split, batch_size=4).eval_loss == pytest.approx(plain, rel=1e-3)
    assert len(list((tmp_path / "trunks").iterdir())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_generation(kind: str, tokenizer: Tokenizer) -> None:
    prompts = ["My order", "", "The app"]
    texts = [
        generate(load(kind, tokenizer, device), prompts, max_new_tokens=15, temperature=0, seed=1)
        for device in ("cpu", CUDA)
    ]
    assert texts[0] == texts[1]
