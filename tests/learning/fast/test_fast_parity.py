"""Engine "fast" computes what engine "hf" computes: losses, gradients, whole trainings, without dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from fedmq.learning.evaluate import evaluate
from fedmq.learning.fast import attention
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import train
from fedmq.recipe import Factors, TrainingRecipe

TEXTS = tiny.random_texts(20)


def pair(
    kind: str, tokenizer: Tokenizer, precision: str = "fp32", **changed: Any
) -> tuple[LanguageModel, LanguageModel]:
    model, lora = tiny.base(kind), tiny.spec(kind, **changed)
    return tiny.load(model, tokenizer, lora, "hf"), tiny.load(model, tokenizer, lora, "fast", precision)


@pytest.mark.parametrize("fused_from", [2, 10_000], ids=["fused attention", "plain attention"])
@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_loss_and_gradient(kind: str, fused_from: int, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FUSED_FROM", fused_from)
    hf, fast = pair(kind, tokenizer)
    expected_loss, expected = tiny.hf_gradient(hf, TEXTS)
    loss, gradient = tiny.fast_gradient(fast, TEXTS)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert tiny.distance(gradient, expected) < 1e-4
    assert evaluate(fast, TEXTS, batch_size=4).eval_loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen2"])
def test_fifty_steps(kind: str, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    recipe = replace(recipe, num_epochs=10, learning_rate=2e-3, warmup_steps=5)
    results, adapters = [], []
    for lm in pair(kind, tokenizer):
        results.append(train(lm, TEXTS, recipe, seed=7))
        adapters.append(tiny.flat(lm.get_adapter()))
    histories = [[record for record in result.log_history if "loss" in record] for result in results]
    for key in ("loss", "grad_norm"):
        of_hf, of_fast = ([record[key] for record in history] for history in histories)
        assert len(of_hf) == 50 and of_hf[-1] < of_hf[0]
        assert of_fast == pytest.approx(of_hf, rel=1e-3), key
    for key in ("learning_rate", "epoch", "step"):
        of_hf, of_fast = ([record[key] for record in history] for history in histories)
        assert of_fast == pytest.approx(of_hf), key
    assert results[0].train_loss == pytest.approx(results[1].train_loss, rel=1e-3)
    assert results[0][1:4] == results[1][1:4]
    start = tiny.flat(tiny.moving(lm.get_adapter()))
    # What was learnt, not where it began, which is the same anyway.
    assert tiny.cosine(adapters[0] - start, adapters[1] - start) > 0.9999


@pytest.mark.parametrize("kind", ["gpt2", "gpt2, own head, gelu", "llama", "qwen2"])
def test_bfloat16_weights(kind: str, tokenizer: Tokenizer) -> None:
    hf, fast = pair(kind, tokenizer, "bf16")
    expected_loss, expected = tiny.hf_gradient(hf, TEXTS)
    loss, gradient = tiny.fast_gradient(fast, TEXTS)
    assert loss == pytest.approx(expected_loss, rel=1e-3) and loss != pytest.approx(expected_loss, rel=1e-7)
    assert tiny.cosine(gradient, expected) > 0.999
    assert evaluate(fast, TEXTS, batch_size=4).eval_loss == pytest.approx(expected_loss, rel=1e-3)


def test_the_residual_stream_the_adapters_and_their_gradients_are_float32(tokenizer: Tokenizer) -> None:
    _, lm = pair("gpt2", tokenizer, "bf16")
    assert lm.packed is not None
    adapters, packed = lm.packed.adapters([lm.get_adapter()]), lm.packed.pack([TEXTS])
    hidden = lm.packed.hidden(packed, adapters)
    assert hidden.dtype == lm.packed.trunk(packed).dtype == adapters.flat.dtype == adapters.grad.dtype == torch.float32
    assert {value.dtype for value in lm.packed.frozen.linear["transformer.h.0.attn.c_attn"]} == {torch.bfloat16}
    assert {value.dtype for value in lm.get_adapter().values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("factors", "core"), [("A", False), ("B", False), ("A", True), ("B", True), ("R", True), ("both", True)]
)
def test_one_factor(factors: Factors, core: bool, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    """What is clipped is the norm of the trained factor's gradient alone."""
    recipe = replace(recipe, factors=factors, max_grad_norm=0.01, weight_decay=0.1)
    hf, fast = pair("gpt2", tokenizer, core=core)
    draw = np.random.default_rng(3)
    start = {name: draw.normal(scale=0.1, size=x.shape).astype(np.float32) for name, x in hf.get_adapter().items()}
    found = []
    for lm in (hf, fast):
        lm.set_adapter(start)
        result = train(lm, TEXTS, recipe, seed=7)
        found.append([record["grad_norm"] for record in result.log_history if "grad_norm" in record])
        found.append(tiny.flat(lm.get_adapter()) - tiny.flat(start))
    assert found[2] == pytest.approx(found[0], rel=1e-3)
    assert tiny.cosine(found[1], found[3]) > 0.9999
