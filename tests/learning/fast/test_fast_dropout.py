"""Dropout: the distribution of torch's, drawn from the client, the step and the layer alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fedmq.learning.fast import passes as passes_module
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.fast.packed import Packed, pack
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import train
from fedmq.recipe import TrainingRecipe

CPU = torch.device("cpu")
A, B, C = (tiny.random_texts(count, seed=seed) for count, seed in ((6, 1), (9, 2), (4, 3)))


def rows(dropout: Dropout, width: int, p: float) -> torch.Tensor:
    return dropout.rows(torch.empty(len(dropout.packed.ids), width), p)


def seen(dropout: Dropout, num_heads: int, p: float) -> list[torch.Tensor]:
    """For each text the factors of its own square: (num_heads, length, length)."""
    packed = dropout.packed
    squares: dict[int, torch.Tensor] = {}
    for bucket, mask in zip(packed.buckets, dropout.attention(num_heads, p, CPU), strict=True):
        longest = packed.lengths[bucket[0]]
        assert mask.shape == (len(bucket), num_heads, longest, longest) and mask.dtype == torch.float32
        for row, text in enumerate(bucket):
            length = packed.lengths[text]
            squares[text] = mask[row, :, :length, :length]
    return [squares[text] for text in sorted(squares)]


def assert_keeps(factors: torch.Tensor, p: float) -> None:
    """Zero with probability p, else 1 / (1 - p)."""
    kept = factors != 0
    n, sigma = factors.numel(), math.sqrt(p * (1 - p) / factors.numel())
    assert n > 10_000
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * sigma
    assert factors[kept].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    assert abs(float(factors.double().mean()) - 1) < 5 * sigma / (1 - p) + 1e-4


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    dropout = Dropout([1, 2], 0, pack([A, B]))
    dropout.enter(0)
    factors = rows(dropout, 200, p)
    assert factors.shape == (len(dropout.packed.ids), 200) and factors.dtype == torch.float32
    assert_keeps(factors, p)
    assert_keeps(torch.cat([square.ravel() for square in seen(dropout, 8, p)]), p)


def test_masks_are_independent() -> None:
    """Of clients, of passes, of layers, of the draws of a layer, of neighbouring rows and columns."""
    packed, width = pack([A, A]), 256
    n = packed.bounds[1]
    masks = []
    for step, layer in itertools.product((0, 1, 4), (-1, 0, 1)):
        dropout = Dropout([11, 12], step, packed)
        dropout.enter(layer)
        for _ in range(2):
            masks += rows(dropout, width, 0.5).split(n)
    masks += [masks[0].roll(1, 0), masks[0].roll(1, 1), masks[0].roll(4, 1)]
    centred = torch.stack([mask.ravel() - 1 for mask in masks]).double()
    assert len(centred) == 39
    correlation = centred @ centred.T / centred.shape[1]
    assert (correlation - torch.eye(len(centred))).abs().max() < 5 / math.sqrt(centred.shape[1]) + 0.01


def test_a_seed_decides() -> None:
    def masks(seed: int) -> list[torch.Tensor]:
        dropout = Dropout([seed], 3, pack([A]))
        dropout.enter(1)
        return [rows(dropout, 16, 0.3), *seen(dropout, 2, 0.3)]

    first, again, other = masks(5), masks(5), masks(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_a_layer_that_is_computed_again_gets_the_same() -> None:
    dropout = Dropout([5], 0, pack([A]))
    dropout.enter(0)
    first = [rows(dropout, 16, 0.3), *seen(dropout, 2, 0.3)]
    dropout.enter(1)
    rows(dropout, 16, 0.3)
    dropout.enter(0)
    again = [rows(dropout, 16, 0.3), *seen(dropout, 2, 0.3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_masks_of_a_client_do_not_depend_on_its_company() -> None:
    def of(k: int, seeds: list[int], packed: Packed) -> list[torch.Tensor]:
        """All masks of client k, of two kinds in turn."""
        dropout = Dropout(seeds, 2, packed)
        dropout.enter(1)
        texts = slice(packed.text_bounds[k], packed.text_bounds[k + 1])
        found = []
        for width, p in ((16, 0.3), (7, 0.5)):  # 7: numbers that fill no 64 bits
            found.append(rows(dropout, width, p)[packed.bounds[k] : packed.bounds[k + 1]])
            found += seen(dropout, 3, p)[texts]
        return found

    alone = of(0, [8], pack([B]))
    for clients, seeds, k in (([A, B, C], [7, 8, 9], 1), ([B, C], [8, 9], 0), ([[], B], [1, 8], 1)):
        together = of(k, seeds, pack(clients))
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_two_passes_of_a_training_have_the_same_masks(
    tokenizer: Tokenizer, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of two steps, nor of two batches of a step, nor of two parts of a batch."""
    passes: list[int] = []

    def noted(seeds: list[int], step: int, packed: Packed) -> Dropout:
        passes.append(step)
        if len(packed.lengths) > 2:
            raise MemoryError
        return Dropout(seeds, step, packed)

    monkeypatch.setattr(passes_module, "Dropout", noted)
    lm = tiny.load(tiny.base("gpt2", dropout=0.1), tokenizer, tiny.spec("gpt2"), "fast")
    train(lm, tiny.random_texts(24), replace(recipe, gradient_accumulation_steps=2, num_epochs=2), seed=1)
    done = passes[1:]  # the first did not fit
    assert len(done) == len(set(done)) == 24


@pytest.mark.parametrize(
    ("kind", "where"),
    [("gpt2", "embd_pdrop"), ("gpt2", "attn_pdrop"), ("gpt2", "resid_pdrop"), ("gpt2", "lora_dropout")]
    + [("llama", "attention_dropout")],
)
def test_losses_and_gradients_are_distributed_as_in_the_library(kind: str, where: str, tokenizer: Tokenizer) -> None:
    """Each kind of dropout alone: mean and spread over 150 draws, of the loss and of each value of the gradient."""
    draws, p, texts = 150, 0.3, tiny.random_texts(4, longest=12)
    small = {"n_layer": 1, "n_embd": 16} if kind == "gpt2" else {"num_hidden_layers": 1, "hidden_size": 16}
    model = tiny.base(kind, **small | ({} if where == "lora_dropout" else {where: p}))
    lora = tiny.spec(kind, r=2, lora_dropout=p if where == "lora_dropout" else 0.0)
    hf, fast = (tiny.load(model, tokenizer, lora, engine) for engine in ("hf", "fast"))
    hf.model.train()
    samples = []
    with torch.random.fork_rng():
        for seed in range(draws):
            torch.manual_seed(seed)
            samples.append((tiny.hf_gradient(hf, texts), tiny.fast_gradient(fast, texts, seed=seed)))
    losses, gradients = (np.array([[sample[side][what] for sample in samples] for side in (0, 1)]) for what in (0, 1))
    still, _ = tiny.fast_gradient(fast, texts)
    assert losses.std(1).min() > 1e-3 * still, "there is no dropout"
    assert losses.std(1)[1] == pytest.approx(losses.std(1)[0], rel=0.25)
    error = math.hypot(*losses.std(1)) / math.sqrt(draws)
    assert abs(losses.mean(1)[0] - losses.mean(1)[1]) < 4 * error
    errors = np.hypot(*gradients.std(1)) / math.sqrt(draws)
    scores = np.abs(gradients.mean(1)[0] - gradients.mean(1)[1]) / np.maximum(errors, 1e-9)
    assert scores.max() < 6 and math.sqrt((scores**2).mean()) < 1.4
    ratios = gradients.std(1)[1] / np.maximum(gradients.std(1)[0], 1e-9)
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
