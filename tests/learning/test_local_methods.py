"""Local methods and local optimisers, under both engines, against the written-out loss in plain autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmq.learning.batching import collate, token_nll
from fedmq.learning.fast.schedule import Schedule
from fedmq.learning.models import LanguageModel
from fedmq.learning.share import Share
from fedmq.learning.train import train, train_together
from fedmq.recipe import LocalMethodSpec, LoRASpec, TrainingRecipe
from fedmq.tensors import digest

Texts = Sequence[np.ndarray]
Named = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def still_lm(engine: str, gpt2_folder: Path, lora: LoRASpec) -> LanguageModel:
    """A model without dropout, in the base or in the adapter."""
    spec = replace(lora, lora_dropout=0.0)
    lm = LanguageModel.load(
        str(gpt2_folder), spec, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32"
    )
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return lm


@pytest.fixture
def still(still_lm: LanguageModel) -> Iterator[LanguageModel]:
    """With an adapter of which both factors have gradients."""
    draw = np.random.default_rng(0)
    start = still_lm.initial_adapter()
    still_lm.set_adapter({k: v + draw.normal(scale=0.05, size=v.shape).astype(np.float32) for k, v in start.items()})
    return still_lm


@pytest.fixture
def of_sgd(recipe: TrainingRecipe) -> TrainingRecipe:
    return replace(recipe, local_optimizer="sgd", learning_rate=0.5, num_epochs=1, gradient_accumulation_steps=2)


def prox(mu: float) -> LocalMethodSpec:
    return LocalMethodSpec("fedprox", mu=mu)


def plainly(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, seed: int, mu: float = 0.0) -> Named:
    """What the recipe leaves: one loss a step, written out, its gradient clipped, torch's own optimiser."""
    schedule = Schedule(texts, recipe, seed, 0)
    weights = lm.weights()
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[recipe.local_optimizer]
    options = {"momentum": recipe.sgd_momentum} if recipe.local_optimizer == "sgd" else {}
    optimizer = kind(weights.values(), weight_decay=recipe.weight_decay, **options)
    for step, batches in enumerate(schedule.steps()):
        chosen = [texts[int(i)] for batch in batches for i in batch]
        inputs = collate(chosen)
        labels = inputs.pop("labels")
        loss = token_nll(lm.model(**inputs).logits, labels).sum() / sum(len(text) - 1 for text in chosen)
        loss = loss + mu / 2 * sum(((weights[name] - start[name]) ** 2).sum() for name in weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), recipe.max_grad_norm or float("inf"))
        optimizer.param_groups[0]["lr"] = schedule.learning_rate(step)
        optimizer.step()
    trained = {name: weight.detach().clone() for name, weight in weights.items()}
    lm.set_adapter({name: weight.numpy() for name, weight in start.items()})
    lm.model.zero_grad(set_to_none=True)
    return trained


def moved(after: dict[str, np.ndarray] | Named, before: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([(np.asarray(after[name]) - value).ravel() for name, value in sorted(before.items())])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(expected) > 0.05
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_grad_norm": 0.0, "sgd_momentum": 0.9, "learning_rate": 0.1},
        {"local_optimizer": "adamw", "learning_rate": 1e-2, "max_grad_norm": 0.3},
    ],
    ids=["sgd", "momentum", "adamw"],
)
def test_equals_the_written_out_loss(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object], mu: float
) -> None:
    """The squared norm, with its half; one term a step, however many batches; clipped with the rest."""
    recipe = replace(of_sgd, weight_decay=0.1, num_epochs=2, **changed)
    before = still.get_adapter()
    expected = moved(plainly(still, texts, recipe, seed=5, mu=mu), before)
    train(still, texts, replace(recipe, method=prox(mu)), seed=5)
    assert_close(moved(still.get_adapter(), before), expected)


def test_the_pull_is_felt(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    """So that the test above would see a term that is left out: it holds the weights back."""
    before, distances = still.get_adapter(), []
    for mu in (0.0, 0.7):
        still.set_adapter(before)
        train(still, texts, replace(of_sgd, num_epochs=2, method=prox(mu)), seed=5)
        distances.append(np.linalg.norm(moved(still.get_adapter(), before)))
    assert distances[1] < 0.9 * distances[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_pull_of_0_is_fedavg_to_the_bit(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, optimizer: str
) -> None:
    found = []
    for method in (LocalMethodSpec("fedavg", mu=None), prox(0.0)):
        lm.set_adapter(lm.initial_adapter())
        train(lm, texts, replace(recipe, local_optimizer=optimizer, method=method), seed=3)
        found.append(digest(lm.get_adapter()))
    assert found[0] == found[1]


@pytest.mark.parametrize("changed", [{"sgd_momentum": 0.9}, {"method": prox(0.7)}], ids=["momentum", "fedprox"])
def test_together_as_alone(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object]
) -> None:
    recipe, before = replace(of_sgd, **changed), still.get_adapter()
    shares = [Share(texts[:5], 1), Share(texts[5:16], 2), Share(texts[16:], 3)]
    for share, together in zip(shares, train_together(still, shares, recipe), strict=True):
        (alone,) = train_together(still, [share], recipe)
        assert isinstance(together, tuple) and isinstance(alone, tuple)
        assert_close(moved(together[1], before), moved(alone[1], before))


def test_a_factor_that_is_not_trained_is_not_pulled(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    before = still.get_adapter()
    train(still, texts, replace(of_sgd, factors="A", method=prox(0.7), sgd_momentum=0.9), seed=1)
    for name, value in still.get_adapter().items():
        assert np.array_equal(value, before[name]) is (".lora_B." in name), name
