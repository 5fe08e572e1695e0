"""Clients that keep B for themselves: each begins with its own, alone or beside others, and learns what is its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedmq import tensors
from fedmq.algorithms import lora_aggregate
from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.lora_core import of_factors
from fedmq.algorithms.personal import OWN, kept_part, personal
from fedmq.learning.client import FederatedClient, train_clients
from fedmq.learning.models import LanguageModel
from fedmq.learning.share import Share
from fedmq.learning.train import remembers, train, train_together
from fedmq.recipe import LoRASpec, TrainingRecipe
from fedmq.tensors import NamedTensors


@pytest.fixture
def own(recipe: TrainingRecipe) -> TrainingRecipe:
    return replace(recipe, shared="A")


def drawn(like: NamedTensors, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(scale=0.1, size=value.shape).astype(np.float32) for name, value in like.items()}


def test_a_training_begins_with_the_clients_own_and_leaves_it_in_its_memory(
    lm: LanguageModel, texts: list[np.ndarray], own: TrainingRecipe
) -> None:
    """As one does that finds the same B in the model; and the model's own B plays no part."""
    whole = drawn(lm.get_adapter(), 1)
    lm.set_adapter(whole)
    expected = train(lm, texts, replace(own, shared="both"), seed=1)
    after = lm.get_adapter()
    lm.set_adapter({**drawn(whole, 2), **of_factors(whole, "A")})
    found = train(lm, texts, own, seed=1, memory=kept_part(whole, "A"))
    assert tensors.digest(lm.get_adapter()) == tensors.digest(after)
    assert found.train_loss == expected.train_loss and not expected.memory
    assert tensors.digest(found.memory) == tensors.digest(kept_part(after, "A"))
    assert all(not np.array_equal(after[name], whole[name]) for name in whole), "both factors are trained"
    assert remembers(own) and not remembers(replace(own, shared="both"))


def test_beside_others_each_has_its_own(lm: LanguageModel, texts: list[np.ndarray], own: TrainingRecipe) -> None:
    lm.set_adapter(drawn(lm.get_adapter(), 1))
    common = lm.get_adapter()
    memories: list[NamedTensors] = [kept_part(drawn(common, seed), "A") for seed in (2, 3)] + [{}]
    shares = [Share(texts[k : k + 6], k, memory=memory) for k, memory in enumerate(memories)]
    together = train_together(lm, shares, own)
    assert tensors.digest(lm.get_adapter()) == tensors.digest(common), "the model is left as it was"
    for share, outcome in zip(shares, together, strict=True):
        (alone,) = train_together(lm, [share], own)
        assert isinstance(outcome, tuple) and isinstance(alone, tuple)
        for name, value in alone[1].items():
            np.testing.assert_allclose(outcome[1][name], value, atol=2e-4)


def test_moments_are_kept_beside_it(lm: LanguageModel, texts: list[np.ndarray], own: TrainingRecipe) -> None:
    memory = train(lm, texts, replace(own, optimizer_state="keep"), seed=1).memory
    own_names = {name for name in memory if name.startswith(OWN)}
    assert own_names and len({name for name in memory if name.startswith("optimizer:exp_avg:")}) == 2 * len(own_names)


def test_opposite_clients_do_better_with_a_b_of_their_own(lora: LoRASpec, recipe: TrainingRecipe) -> None:
    """One counts up and one counts down: what follows a number is another one for each."""

    def counting(step: int, seed: int, count: int) -> list[np.ndarray]:
        draw = np.random.default_rng(seed)
        return [np.array([*(10 + (draw.integers(12) + step * np.arange(8)) % 12), 0]) for _ in range(count)]

    lora = replace(lora, target_modules=("c_attn",), lora_dropout=0.0)
    lm = LanguageModel.load("fedmq-tiny", lora, max_length=32, seed=1, device="cpu", precision="fp32")
    clients = [
        FederatedClient(f"client_{k}", lm, counting(step, k, 16), test=counting(step, k + 10, 8))
        for k, step in enumerate((1, -1))
    ]

    def losses(name: str) -> list[float]:
        """Of each client's own model on its own held-out texts, after three rounds."""
        asked, rule = replace(recipe, shared="A" if name == "fedsa" else "both"), lora_aggregate.BY_NAME[name]()
        first = lm.initial_adapter()
        common, memories = of_factors(first, asked.shared), [{}, {}]
        for round in (1, 2, 3):
            starts, seeds = [{**first, **common}] * 2, [round, 99 - round]
            outcomes = train_clients(clients, asked, seeds=seeds, round=round, memories=memories, starts=starts)
            state = rule.init(common)
            for k, outcome in enumerate(outcomes):
                assert isinstance(outcome, tuple)
                memories[k] = dict(outcome[0].memory)
                delta = tensors.subtract(of_factors(outcome[1], asked.shared), common)
                state = rule.fold(state, Update(f"{k}", round - 1, 1, 1, delta), 1.0)
            common = tensors.astype(tensors.add(common, rule.finish(state)), np.float32)
        found = []
        for client, memory in zip(clients, memories, strict=True):
            client.set_weights(personal({**first, **common}, memory))
            found.append(client.evaluate().eval_loss)
        return found

    for mine, ours in zip(losses("fedsa"), losses("fedit"), strict=True):
        assert mine < ours - 0.2, (mine, ours)
