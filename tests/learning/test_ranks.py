"""A client of smaller rank: rows of A and columns of B that are 0 where it starts stay 0, under both engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.codec.part import start
from fedmq.learning.models import LanguageModel
from fedmq.learning.share import Share
from fedmq.learning.train import Outcome, train, train_together
from fedmq.recipe import LocalMethodSpec, LoRASpec, Part, TrainingRecipe
from fedmq.tensors import NamedTensors

Texts = Sequence[np.ndarray]
HARD: dict[str, Any] = {"weight_decay": 0.5, "gradient_accumulation_steps": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": HARD,
    "adamw, moments kept": HARD | {"optimizer_state": "keep"},
    "sgd": HARD | {"local_optimizer": "sgd", "sgd_momentum": 0.9, "learning_rate": 0.1},
    "fedprox": HARD | {"method": LocalMethodSpec("fedprox", mu=1.0, alpha=None)},
}


def beyond(rank: int, adapter: NamedTensors) -> np.ndarray:
    """All that a client of this rank has not."""
    parts = [x[rank:] if "lora_A" in name else x[:, rank:] for name, x in sorted(adapter.items())]
    return np.concatenate([part.ravel() for part in parts])


def adapter_of(outcome: Outcome) -> NamedTensors:
    assert isinstance(outcome, tuple)
    return outcome[1]


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_zero_stays_zero_in_any_company(
    trained: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, name: str
) -> None:
    recipe, ranks = replace(recipe, **RECIPES[name]), (4, 1, 3)
    starts = [start(Part("both", rank), trained.get_adapter()) for rank in ranks]
    before = trained.get_adapter()
    parts = (texts[:5], texts[5:16], texts[16:])
    shares = [Share(own, k, start=first) for k, (own, first) in enumerate(zip(parts, starts, strict=True))]
    for _ in range(2):
        outcomes = train_together(trained, shares, recipe)
        for rank, first, outcome in zip(ranks, starts, outcomes, strict=True):
            found = adapter_of(outcome)
            assert not beyond(rank, found).any()
            assert all(not np.array_equal(found[tensor], first[tensor]) for tensor in found), "the rest moves"
        shares = [
            replace(share, start=adapter_of(outcome), memory=outcome[0].memory)  # type: ignore[index]
            for share, outcome in zip(shares, outcomes, strict=True)
        ]
    assert all(np.array_equal(value, before[tensor]) for tensor, value in trained.get_adapter().items())


def test_it_is_the_training_of_a_smaller_adapter(
    trained: LanguageModel, gpt2_folder: Path, lora: LoRASpec, texts: list[np.ndarray], recipe: TrainingRecipe
) -> None:
    """With the scale of the larger one: 8 / 4 = 4 / 2."""
    small = LanguageModel.load(
        str(gpt2_folder),
        replace(lora, r=2, lora_alpha=4),
        max_length=32,
        seed=1,
        device="cpu",
        engine="hf" if trained.packed is None else "fast",
        precision="fp32",
    )
    first = start(Part("both", 2), trained.get_adapter())

    def cut(adapter: NamedTensors) -> dict[str, np.ndarray]:
        return {name: x[:2] if "lora_A" in name else x[:, :2] for name, x in adapter.items()}

    small.set_adapter(cut(first))
    (outcome,) = train_together(trained, [Share(texts, 7, start=first)], recipe)
    result = train(small, texts, recipe, seed=7)
    assert isinstance(outcome, tuple) and outcome[0].train_loss == pytest.approx(result.train_loss, rel=1e-5)
    expected, found = small.get_adapter(), cut(outcome[1])
    for name in expected:
        assert not np.allclose(expected[name], cut(first)[name], atol=1e-3)
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4)
