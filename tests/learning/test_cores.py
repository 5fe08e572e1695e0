"""Adapters with an R between B and A, under both engines: what is trained of them, and what others see of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from fedmq.algorithms.lora_core import folded, is_of
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel, load_for_inference
from fedmq.learning.share import Share
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.learning.train import train, train_together
from fedmq.recipe import Factors, LocalMethodSpec, LoRASpec, TrainingRecipe


@pytest.fixture(scope="module")
def cored(engine: str, gpt2_folder: Path, lora: LoRASpec) -> LanguageModel:
    spec = replace(lora, core=True, lora_dropout=0.0)
    return LanguageModel.load(
        str(gpt2_folder), spec, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32"
    )


@pytest.fixture
def warm(cored: LanguageModel) -> LanguageModel:
    draw = np.random.default_rng(0)
    first = cored.initial_adapter()
    cored.set_adapter({k: draw.normal(scale=0.2, size=v.shape).astype(np.float32) for k, v in first.items()})
    return cored


def test_the_first_adapter_is_a_plain_one_and_identities(
    cored: LanguageModel, gpt2_folder: Path, lora: LoRASpec
) -> None:
    first = cored.initial_adapter()
    cores = [name for name in first if name.endswith(".lora_R.weight")]
    assert list(first) == sorted(first) and len(cores) == len(first) / 3
    assert cored.num_trainable == sum(value.size for value in first.values())
    assert all(np.array_equal(first[name], np.eye(4, dtype=np.float32)) for name in cores)
    plain = LanguageModel.load(str(gpt2_folder), lora, max_length=32, seed=1, device="cpu", engine="hf")
    for name, value in plain.initial_adapter().items():
        assert np.array_equal(first[name], value), name


@pytest.mark.parametrize("factors", ["A", "B", "R"])
def test_the_other_factors_keep_their_bits_alone_and_together(
    warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, factors: Factors
) -> None:
    recipe, before = replace(recipe, factors=factors, weight_decay=0.5), warm.get_adapter()
    shares = [Share(texts[:4], 1), Share(texts[4:13], 2)]
    outcomes = train_together(warm, shares, replace(recipe, gradient_checkpointing=True))
    for share, outcome in zip(shares, outcomes, strict=True):
        assert isinstance(outcome, tuple)
        result = train(warm, share.texts, recipe, seed=share.seed)
        alone = warm.get_adapter()
        warm.set_adapter(before)
        assert result.train_loss == pytest.approx(outcome[0].train_loss, rel=1e-4)
        for name, value in before.items():
            assert np.array_equal(outcome[1][name], value) is not is_of(name, factors), name
            np.testing.assert_allclose(outcome[1][name], alone[name], atol=3e-4)


def test_what_is_trained_is_r_in_its_own_coordinates(
    warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe
) -> None:
    """One step of Adam moves every number of R by the learning rate, whatever B and A are; fedprox pulls R."""
    recipe = replace(recipe, factors="R", batch_size=20, num_epochs=1, weight_decay=0.0, max_grad_norm=0.0)
    before = warm.get_adapter()
    train(warm, texts, recipe, seed=1)
    moved = {n: v - before[n] for n, v in warm.get_adapter().items() if n.endswith(".lora_R.weight")}
    for value in moved.values():
        np.testing.assert_allclose(np.abs(value), 1e-2, rtol=0.05)
    ends = []
    for mu in (0.0, 100.0):
        warm.set_adapter(before)
        prox = LocalMethodSpec("fedprox", mu=mu, alpha=None)
        train(warm, texts, replace(recipe, num_epochs=20, local_optimizer="sgd", method=prox), seed=1)
        ends.append(sum(float(np.abs(v - before[n]).sum()) for n, v in warm.get_adapter().items()))
    assert ends[1] < 0.5 * ends[0]


def test_moments_are_those_of_the_factor_that_is_trained(
    warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe
) -> None:
    """What is remembered of B is of no use to R, also not its number of steps; R goes on from its own."""
    recipe, start = replace(recipe, optimizer_state="keep"), warm.get_adapter()
    of_b = train(warm, texts, replace(recipe, factors="B"), seed=1).memory
    assert of_b and not any(".lora_A." in name or ".lora_R." in name for name in of_b)
    recipe, found = replace(recipe, factors="R"), []
    of_r = train(warm, texts, recipe, seed=1).memory
    for memory in ({}, of_b, of_r):
        warm.set_adapter(start)
        train(warm, texts, recipe, seed=2, memory=memory)
        found.append(warm.get_adapter())
    assert all(np.array_equal(found[0][name], found[1][name]) for name in start)
    assert any(not np.array_equal(found[0][name], found[2][name]) for name in start)


def test_others_see_b_r_in_place_of_b(
    warm: LanguageModel, texts: list[np.ndarray], gpt2_folder: Path, lora: LoRASpec, tmp_path: Path
) -> None:
    """The folder that peft loads, a model without an R, and the merged one compute what this one does."""
    warm.save_adapter(tmp_path / "a")
    back = load_for_inference(None, tmp_path / "a", device="cpu", max_length=32, precision="fp32")
    assert back.lora == replace(warm.lora, core=False)
    assert all(np.array_equal(value, folded(warm.get_adapter())[name]) for name, value in back.get_adapter().items())
    expected = evaluate(warm, texts, batch_size=4).eval_loss
    assert evaluate(back, texts, batch_size=4).eval_loss == pytest.approx(expected, rel=1e-6)
    with library_warnings_to_log():
        base = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
        of_peft = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    ids = torch.tensor(texts[0][None, :])
    with torch.no_grad():
        for model in (of_peft, warm.merged()):
            torch.testing.assert_close(model(ids).logits, warm.model(ids).logits, atol=1e-5, rtol=1e-5)
    plain = {name: value for name, value in warm.get_adapter().items() if not name.endswith(".lora_R.weight")}
    back.set_adapter(plain)
    assert evaluate(back, texts, batch_size=4).eval_loss != pytest.approx(expected, rel=1e-5), "R does matter"
