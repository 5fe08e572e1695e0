"""Passes as a card does them, computed on the CPU, where nothing is recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fedmq.learning.fast.card import Card, passes_of
from fedmq.learning.fast.card_dropout import CardDropout, keys_of
from fedmq.learning.fast.grid import Grid, Shape, shape_of
from fedmq.learning.fast.passes import Batch, PackedPasses
from fedmq.learning.models import LanguageModel
from fedmq.learning.outcome import Diverged
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import Share, train_together
from fedmq.recipe import Factors, TrainingRecipe

TEXTS = [tiny.random_texts(count, seed=count) for count in (5, 1, 8)]


def load(kind: str, tokenizer: Tokenizer, p: float = 0.0, **lora: object) -> LanguageModel:
    return tiny.load(tiny.base(kind, dropout=p), tokenizer, tiny.spec(kind, lora_dropout=p, **lora), "fast")


def gradients(
    lm: LanguageModel, texts: list[list[np.ndarray]], card: bool, number: int = 0
) -> tuple[list[float], np.ndarray]:
    assert lm.packed is not None
    passes = Card(lm.packed) if card else PackedPasses(lm.packed)
    start = lm.get_adapter()
    adapters = passes.adapters([{name: (k + 1) * value for name, value in start.items()} for k in range(len(texts))])
    batch = Batch(texts, [sum(map(len, own)) for own in texts], range(len(texts)), number, None)
    return passes.backward(adapters, batch, False), adapters.grad.numpy().astype(np.float64)


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_gradients_and_losses_are_those_without_padding(kind: str, tokenizer: Tokenizer) -> None:
    lm = load(kind, tokenizer)
    expected_losses, expected = gradients(lm, TEXTS, card=False)
    losses, found = gradients(lm, TEXTS, card=True)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert max(tiny.distance(*rows) for rows in zip(found, expected, strict=True)) < 1e-5


def test_a_client_without_texts_in_this_step_learns_nothing(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer)
    losses, found = gradients(lm, [TEXTS[0], [], TEXTS[2]], card=True)
    _, alone = gradients(lm, [TEXTS[0]], card=True)
    assert losses[1] == 0 and not found[1].any()
    assert tiny.distance(found[0], alone[0]) < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_dropout_of_a_client_is_its_own_in_any_company(kind: str, tokenizer: Tokenizer) -> None:
    lm = load(kind, tokenizer, p=0.3)
    alone, _ = gradients(lm, [TEXTS[0]], card=True)
    together, _ = gradients(lm, [TEXTS[0], tiny.random_texts(20, longest=60)], card=True)
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    again, _ = gradients(lm, [TEXTS[0]], card=True, number=1)
    assert again[0] != pytest.approx(alone[0], rel=1e-5)


def test_masks_drop_what_they_should_and_no_two_are_alike() -> None:
    dropout = CardDropout(torch.from_numpy(keys_of([1, 2], 7)))
    masks = []
    for layer in (-1, 0):
        dropout.enter(layer)
        masks += [dropout.rows(torch.empty(2 * 64, 128), 0.3) for _ in range(2)]
        masks.append(dropout.attention((8, 4, 32), 0.3).view(-1, 128))
    for k, mask in enumerate(masks):
        assert set(mask.unique().tolist()) == {0.0, masks[0].max().item()}
        # Four standard deviations of so many draws.
        assert abs((mask == 0).double().mean().item() - 0.3) < 4 * (0.21 / mask.numel()) ** 0.5
        assert mask.double().mean().item() == pytest.approx(1, abs=0.03)
        for other in [*masks[:k], mask.roll(1, 0), mask.roll(1, 1)]:
            if other.shape == mask.shape:
                assert ((mask == 0) & (other == 0)).double().mean().item() == pytest.approx(0.09, abs=0.012)
    first, second = masks[0].chunk(2)
    assert ((first == 0) & (second == 0)).double().mean().item() == pytest.approx(0.09, abs=0.012)


@pytest.mark.parametrize("factors", ["both", "R"])
def test_training_on_a_card_is_training(factors: Factors, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    """One model after the other, in groups, with accumulation, and with another adapter in the place of the last."""
    recipe = replace(recipe, batch_size=2, gradient_accumulation_steps=2, learning_rate=2e-3, factors=factors)
    shares = [Share(tiny.random_texts(n, seed=n), n) for n in (3, 9, 6)]
    lm = load("gpt2", tokenizer, core=factors == "R")
    expected = train_together(lm, shares, recipe)
    assert lm.packed is not None
    lm.passes = Card(lm.packed)
    for _ in range(2):
        for found, wanted in zip(train_together(lm, shares, recipe), expected, strict=True):
            assert isinstance(found, tuple) and isinstance(wanted, tuple)
            assert found[0].train_loss == pytest.approx(wanted[0].train_loss, rel=1e-4)
            assert tiny.distance(tiny.flat(found[1]), tiny.flat(wanted[1])) < 1e-4
    lm.packed.frozen.replace("transformer.h.0.mlp.c_fc", torch.zeros(32, 128))
    changed, other = (train_together(lm, shares, recipe)[0] for lm.passes in (lm.passes, PackedPasses(lm.packed)))
    assert isinstance(changed, tuple) and isinstance(other, tuple)
    assert changed[0].train_loss == pytest.approx(other[0].train_loss, rel=1e-4)


def test_who_diverges_does_so_alone(tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    lm = load("gpt2", tokenizer)
    broken = {name: np.full_like(value, np.nan) for name, value in lm.get_adapter().items()}
    assert lm.packed is not None
    lm.passes = Card(lm.packed)
    good, bad = Share(TEXTS[0], 1), Share(TEXTS[2], 2, start=broken)
    first, second = train_together(lm, [good, bad], recipe)
    (alone,) = train_together(lm, [good], recipe)
    assert isinstance(second, Diverged) and isinstance(first, tuple) and isinstance(alone, tuple)
    assert first[0].train_loss == pytest.approx(alone[0].train_loss, rel=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_layers_below_all_adapters(kept: bool, tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer, layers_to_transform=(1,))
    model = lm.packed
    assert model is not None and model.first_adapted == 1
    found = []
    for passes in (Card(model), PackedPasses(model)):
        adapters = passes.adapters([lm.get_adapter()])
        trunks = [model.trunk(model.pack([TEXTS[0]]))] if kept else None
        losses = passes.backward(adapters, Batch([TEXTS[0]], [50], [1], 0, trunks), False)
        found.append((losses[0], adapters.grad.numpy().astype(np.float64)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert tiny.distance(found[0][1], found[1][1]) < 1e-5


def test_a_trunk_that_was_kept_is_not_read_for_texts_of_which_none_is(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer, layers_to_transform=(1,))
    model = lm.packed
    assert model is not None
    made, batches = Card(model), ([np.arange(1, 31)], [np.arange(31, 61)])
    kept = [model.trunk(model.pack([batches[0]]))]
    adapters = made.adapters([lm.get_adapter()])
    made.backward(adapters, Batch([batches[0]], [29], [1], 0, kept), False)
    (found,) = made.backward(adapters, Batch([batches[1]], [29], [1], 0, None), False)
    (expected,) = Card(model).backward(adapters, Batch([batches[1]], [29], [1], 0, None), False)
    assert found == expected


def test_few_shapes_for_many_batches() -> None:
    rng = np.random.default_rng(0)
    batches = [[np.zeros(n, int) for n in rng.integers(2, 128, 8)] for _ in range(200)]
    shapes = {shape_of([batch]) for batch in batches}
    assert len(shapes) < 30
    for batch in batches:
        shape = shape_of([batch])
        Grid(shape, "cpu").fill([batch], [1.0], np.zeros((1, 2), np.int64))
        assert shape.rows < 1.25 * sum(map(len, batch)) + 64
    assert shape_of([[np.zeros(16, int)]]) == Shape(1, 64, 1, 32)


def test_recordings_of_one_training_are_bounded(
    tokenizer: Tokenizer, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of many lengths come in one long training, too; what is forgotten in the middle of it is made again."""
    recipe, share = replace(recipe, batch_size=1), Share(tiny.random_texts(30, longest=60), 1)
    lm = load("gpt2", tokenizer)

    def trained(most: int) -> tuple[np.ndarray, int]:
        monkeypatch.setattr("fedmq.learning.fast.card._MAX_RECORDED", most)
        assert lm.packed is not None
        made, counts = Card(lm.packed), list[int]()
        lm.passes = made
        (outcome,) = train_together(lm, [share], recipe, on_step=lambda *_: counts.append(len(made._passes)))
        assert isinstance(outcome, tuple)
        return tiny.flat(outcome[1]), max(counts)

    (expected, shapes), (found, held) = trained(64), trained(2)
    assert shapes > 2 and held == 2
    assert np.array_equal(found, expected)


def test_no_recording_outlives_the_weights_that_it_reads(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer)
    assert lm.packed is not None
    made = Card(lm.packed)
    made.backward(made.adapters([lm.get_adapter()]), Batch([TEXTS[0]], [50], [1], 0, None), False)
    made.adapters([lm.get_adapter()])
    assert made._passes, "the next training has them"
    lm.packed.frozen.replace("transformer.h.0.mlp.c_fc", torch.zeros(32, 128))
    made.adapters([lm.get_adapter()])
    assert not made._passes


def test_the_kind_of_passes_is_the_devices(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer)
    assert lm.packed is not None
    assert isinstance(passes_of(lm.packed), PackedPasses)
    lm.packed.device = "cuda:0"
    assert isinstance(passes_of(lm.packed), Card)
