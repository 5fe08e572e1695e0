"""Only one LoRA factor is trained, under both engines: the other keeps its bits, decay and clipping leave it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedmq.learning.models import LanguageModel
from fedmq.learning.share import Share
from fedmq.learning.train import train, train_together
from fedmq.recipe import Factors, TrainingRecipe


@pytest.fixture
def warm(lm: LanguageModel) -> LanguageModel:
    """B is 0 in a first adapter: nothing could be seen of its being kept."""
    draw = np.random.default_rng(0)
    lm.set_adapter({k: draw.normal(scale=0.1, size=v.shape).astype(np.float32) for k, v in lm.get_adapter().items()})
    return lm


@pytest.mark.parametrize(("factors", "kept"), [("A", ".lora_B."), ("B", ".lora_A.")])
def test_the_other_factor_keeps_its_bits(
    warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, factors: Factors, kept: str
) -> None:
    before = warm.get_adapter()
    train(warm, texts, replace(recipe, factors=factors, weight_decay=0.5), seed=1)
    after = warm.get_adapter()
    for name, value in before.items():
        assert np.array_equal(after[name], value) is (kept in name), name


def test_the_next_training_has_both_again(warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe) -> None:
    for factors in ("B", "both"):
        before = warm.get_adapter()
        train(warm, texts, replace(recipe, engine="hf", factors=factors), seed=1)
    assert not any(np.array_equal(value, before[name]) for name, value in warm.get_adapter().items())


def test_clients_that_are_trained_together(
    warm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe
) -> None:
    start = warm.get_adapter()
    shares = [Share(texts[:4], 1), Share(texts[4:9], 2)]
    outcomes = train_together(warm, shares, replace(recipe, factors="A"))
    for outcome in outcomes:
        assert isinstance(outcome, tuple)
        assert all(np.array_equal(outcome[1][name], start[name]) is (".lora_B." in name) for name in start)
