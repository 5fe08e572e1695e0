"""Local methods and local optimisers, under both engines, against the written-out loss in plain autograd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from fedmq.recipe import Factors, LocalMethodSpec, LoRASpec, TrainingRecipe
from fedmq.tensors import NamedTensors, digest, zeros_like

Texts = Sequence[np.ndarray]
Named = Mapping[str, torch.Tensor]


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
    return LocalMethodSpec("fedprox", mu=mu, alpha=None)


def optimizer_of(recipe: TrainingRecipe, weights: Named) -> torch.optim.Optimizer:
    if recipe.local_optimizer == "adamw":
        return torch.optim.AdamW(weights.values(), weight_decay=recipe.weight_decay)
    return torch.optim.SGD(weights.values(), momentum=recipe.sgd_momentum, weight_decay=recipe.weight_decay)


def plainly(
    lm: LanguageModel,
    texts: Texts,
    recipe: TrainingRecipe,
    seed: int,
    mu: float = 0.0,
    slope: Named | None = None,
    push: Named | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Named:
    """What the recipe leaves: one loss a step, written out, its gradient clipped, torch's own optimiser."""
    schedule = Schedule(texts, recipe, seed, 0)
    weights = lm.weights()
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = optimizer or optimizer_of(recipe, weights)
    for step, batches in enumerate(schedule.steps()):
        chosen = [texts[int(i)] for batch in batches for i in batch]
        inputs = collate(chosen)
        labels = inputs.pop("labels")
        loss = token_nll(lm.model(**inputs).logits, labels).sum() / sum(len(text) - 1 for text in chosen)
        loss = loss + mu / 2 * sum(((weights[name] - start[name]) ** 2).sum() for name in weights)
        if slope is not None:
            loss = loss - sum((slope[name] * weights[name]).sum() for name in weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), recipe.max_grad_norm or float("inf"))
        for name, weight in weights.items() if push is not None else ():
            assert weight.grad is not None
            weight.grad += push[name]
        optimizer.param_groups[0]["lr"] = schedule.learning_rate(step)
        optimizer.step()
    trained = {name: weight.detach().clone() for name, weight in weights.items()}
    lm.set_adapter({name: weight.numpy() for name, weight in start.items()})
    lm.model.zero_grad(set_to_none=True)
    return trained


def moved(after: dict[str, np.ndarray] | Named, before: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([(np.asarray(after[name]) - value).ravel() for name, value in sorted(before.items())])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(expected) > 0.01
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
    for method in (LocalMethodSpec("fedavg", mu=None, alpha=None), prox(0.0)):
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


def second_start(before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the next round may start from: another adapter."""
    draw = np.random.default_rng(9)
    return {k: v + draw.normal(scale=0.02, size=v.shape).astype(np.float32) for k, v in before.items()}


KEPT = pytest.mark.parametrize(
    "changed",
    [{"sgd_momentum": 0.9, "learning_rate": 0.1}, {"local_optimizer": "adamw", "learning_rate": 1e-2}],
    ids=["momentum", "adamw"],
)


@KEPT
def test_moments_are_kept(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object]
) -> None:
    """As one optimiser of torch, under which the weights are put elsewhere between the rounds."""
    recipe = replace(of_sgd, optimizer_state="keep", **changed)
    before = still.get_adapter()
    optimizer = optimizer_of(recipe, still.weights())
    plainly(still, texts, recipe, seed=5, optimizer=optimizer)
    still.set_adapter(second_start(before))
    expected = moved(plainly(still, texts, recipe, seed=6, optimizer=optimizer), before)

    still.set_adapter(before)
    memory = train(still, texts, recipe, seed=5).memory
    still.set_adapter(second_start(before))
    train(still, texts, recipe, seed=6, memory=memory)
    assert_close(moved(still.get_adapter(), before), expected)

    still.set_adapter(second_start(before))
    assert train(still, texts, replace(recipe, optimizer_state="reset"), seed=6).memory == {}
    afresh = moved(still.get_adapter(), before)
    assert np.linalg.norm(afresh - expected) > 1e-2 * np.linalg.norm(expected)


@KEPT
@pytest.mark.parametrize("factors", ["both", "B"])
def test_moments_are_each_clients_own(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object], factors: Factors
) -> None:
    recipe, before = replace(of_sgd, optimizer_state="keep", factors=factors, **changed), still.get_adapter()
    own = (texts[:5], texts[5:16], texts[16:])
    memories: list[NamedTensors] = [{}] * 3
    for seed in (1, 2):
        shares = [Share(part, seed, memory=memory) for part, memory in zip(own, memories, strict=True)]
        outcomes = train_together(still, shares, recipe)
        for share, together in zip(shares, outcomes, strict=True):
            (alone,) = train_together(still, [share], recipe)
            assert isinstance(together, tuple) and isinstance(alone, tuple)
            assert_close(moved(together[1], before), moved(alone[1], before))
            assert together[0].memory.keys() == alone[0].memory.keys() != set()
        memories = [outcome[0].memory for outcome in outcomes if isinstance(outcome, tuple)]


@KEPT
@pytest.mark.parametrize("engine", ["fast"], indirect=True)
@pytest.mark.parametrize("factors", ["both", "B"])
def test_one_engine_goes_on_from_what_the_other_kept(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object], factors: Factors
) -> None:
    recipe, before = replace(of_sgd, optimizer_state="keep", factors=factors, **changed), still.get_adapter()
    first = []
    for name in ("fast", "hf"):
        still.set_adapter(before)
        first.append(train(still, texts, replace(recipe, engine=name), seed=5).memory)
    second = []
    for name, memory in (("fast", first[0]), ("fast", first[1]), ("hf", first[0])):
        still.set_adapter(before)
        train(still, texts, replace(recipe, engine=name), seed=6, memory=memory)
        second.append(moved(still.get_adapter(), before))
    assert_close(second[1], second[0])
    assert_close(second[2], second[0])


DYN = LocalMethodSpec("feddyn", mu=None, alpha=0.5)


def slopes(before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An h_k."""
    draw = np.random.default_rng(4)
    return {name: draw.normal(scale=0.05, size=value.shape).astype(np.float32) for name, value in before.items()}


@pytest.mark.parametrize(
    "changed",
    [{"max_grad_norm": 0.0}, {"local_optimizer": "adamw", "learning_rate": 1e-2, "max_grad_norm": 0.3}],
    ids=["sgd", "adamw"],
)
def test_feddyn_is_the_written_out_loss(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, changed: dict[str, object]
) -> None:
    recipe = replace(of_sgd, weight_decay=0.1, **changed)
    before = still.get_adapter()
    h = slopes(before)
    slope = {name: torch.tensor(value) for name, value in h.items()}
    expected = moved(plainly(still, texts, recipe, seed=5, mu=0.5, slope=slope), before)
    assert np.linalg.norm(expected - moved(plainly(still, texts, recipe, seed=5, mu=0.5), before)) > 0.01

    memory = {f"h:{name}": value for name, value in h.items()}
    after = train(still, texts, replace(recipe, method=DYN), seed=5, memory=memory).memory
    trained = still.get_adapter()
    assert_close(moved(trained, before), expected)
    assert after.keys() == memory.keys()
    for name, value in h.items():
        assert after[f"h:{name}"] == pytest.approx(value - 0.5 * (trained[name] - before[name]), abs=1e-7)


def test_feddyn_begins_as_fedprox(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    before, found = still.get_adapter(), []
    for method in (DYN, prox(0.5)):
        still.set_adapter(before)
        train(still, texts, replace(of_sgd, method=method), seed=5)
        found.append(digest(still.get_adapter()))
    assert found[0] == found[1]


def test_memories_of_methods_are_each_clients_own(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    """Beside an optimiser that is kept."""
    recipe = replace(of_sgd, optimizer_state="keep", sgd_momentum=0.5, method=DYN)
    before = still.get_adapter()
    memories: list[NamedTensors] = [{}] * 3
    for seed in (1, 2):
        parts = zip((texts[:5], texts[5:16], texts[16:]), memories, strict=True)
        shares = [Share(part, seed, memory=memory) for part, memory in parts]
        outcomes = train_together(still, shares, recipe)
        for share, together in zip(shares, outcomes, strict=True):
            (alone,) = train_together(still, [share], recipe)
            assert isinstance(together, tuple) and isinstance(alone, tuple)
            assert_close(moved(together[1], before), moved(alone[1], before))
            assert together[0].memory.keys() == alone[0].memory.keys()
            assert {f"h:{name}" for name in before} < together[0].memory.keys()
        memories = [outcome[0].memory for outcome in outcomes if isinstance(outcome, tuple)]


SCAFFOLD = LocalMethodSpec("scaffold", mu=None, alpha=None)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.3])
def test_scaffold_corrects_each_step_after_clipping(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe, max_grad_norm: float
) -> None:
    """And c_k becomes the mean of what the gradients were without the correction, by the rates of their steps."""
    recipe = replace(of_sgd, learning_rate=0.05, max_grad_norm=max_grad_norm, warmup_steps=1)
    before = still.get_adapter()
    c, own = slopes(before), {name: -0.3 * value for name, value in slopes(before).items()}
    push = {name: torch.tensor(value - own[name]) for name, value in c.items()}
    expected = moved(plainly(still, texts, recipe, seed=5, push=push), before)
    assert np.linalg.norm(expected - moved(plainly(still, texts, recipe, seed=5), before)) > 0.01

    memory = {f"control:{name}": value for name, value in c.items()}
    memory |= {f"c:{name}": value for name, value in own.items()}
    after = train(still, texts, replace(recipe, method=SCAFFOLD), seed=5, memory=memory).memory
    assert_close(moved(still.get_adapter(), before), expected)
    assert after.keys() == {f"c:{name}" for name in before}
    schedule = Schedule(texts, recipe, 5, 0)
    rates = sum(schedule.learning_rate(step) for step in range(schedule.num_steps))
    # Of all steps together, y - x = -sum of lr (g + c - c_k).
    mean = -expected / rates - moved({name: np.asarray(value) for name, value in push.items()}, zeros_like(before))
    found = moved({name: after[f"c:{name}"] for name in before}, zeros_like(before))
    assert np.linalg.norm(found - mean) < 1e-3 * np.linalg.norm(mean)


def test_scaffold_begins_as_fedavg(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    before, found = still.get_adapter(), []
    for method in (SCAFFOLD, LocalMethodSpec("fedavg", mu=None, alpha=None)):
        still.set_adapter(before)
        train(still, texts, replace(of_sgd, method=method), seed=5)
        found.append(digest(still.get_adapter()))
    assert found[0] == found[1]


def test_scaffold_together_as_alone(still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe) -> None:
    recipe, before = replace(of_sgd, learning_rate=0.1, method=SCAFFOLD), still.get_adapter()
    control = {f"control:{name}": value for name, value in slopes(before).items()}
    memories: list[NamedTensors] = [{}] * 3
    for seed in (1, 2):
        parts = zip((texts[:5], texts[5:16], texts[16:]), memories, strict=True)
        shares = [Share(part, seed, memory={**control, **memory}) for part, memory in parts]
        outcomes = train_together(still, shares, recipe)
        for share, together in zip(shares, outcomes, strict=True):
            (alone,) = train_together(still, [share], recipe)
            assert isinstance(together, tuple) and isinstance(alone, tuple)
            assert_close(moved(together[1], before), moved(alone[1], before))
        memories = [outcome[0].memory for outcome in outcomes if isinstance(outcome, tuple)]


def test_a_training_whose_every_rate_is_0_leaves_c_as_it_was(
    still: LanguageModel, texts: Texts, of_sgd: TrainingRecipe
) -> None:
    recipe = replace(of_sgd, warmup_steps=5, method=SCAFFOLD)
    own = {f"c:{name}": value for name, value in slopes(still.get_adapter()).items()}
    after = train(still, texts[:4], recipe, seed=1, memory=own).memory
    assert digest(after) == digest(own)
