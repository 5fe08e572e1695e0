"""Generation of engine "fast": what was read before is read from the cache, and the result is the library's."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import tiny
import torch

from fedmq.learning.fast.decode import next_tokens
from fedmq.learning.fast.forward import Past
from fedmq.learning.generate import generate
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer

KINDS = ["gpt2", "gpt2, scale by layer", "llama", "llama, biases, llama3 rotary", "mistral", "qwen2"]
PROMPTS = ["My order", "", "The app crashes every"]


def load(kind: str, tokenizer: Tokenizer, engine: str = "fast", precision: str = "fp32") -> LanguageModel:
    # A head tied to a random embedding says the same token over and over.
    base = tiny.base(kind, tie_word_embeddings=False)
    return tiny.load(base, tokenizer, tiny.spec(kind), engine, precision)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_as_the_library(kind: str, tokenizer: Tokenizer) -> None:
    texts = [
        generate(load(kind, tokenizer, engine), PROMPTS, max_new_tokens=25, temperature=0, seed=1)
        for engine in ("hf", "fast")
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3


@pytest.mark.parametrize("chunks", [(1,) * 20, (7, 1, 12), (19, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_with_the_cache_are_those_of_the_whole_text(
    kind: str, chunks: tuple[int, ...], tokenizer: Tokenizer
) -> None:
    model = load(kind, tokenizer).packed
    assert model is not None
    adapters = model.adapters([tiny.moving(load(kind, tokenizer).initial_adapter())])
    ids, past, start = np.random.default_rng(2).integers(1, tiny.VOCAB, 20), Past(), 0
    with torch.inference_mode():
        for size in chunks:
            assert past.length == start
            packed = model.pack([[ids[start : start + size]]], past.length)
            logits = model.next_token_logits(packed, model.hidden(packed, adapters, past=past))
            start += size
            whole = model.pack([[ids[:start]]])
            expected = model.next_token_logits(whole, model.hidden(whole, adapters))
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_last_logits_of_each_of_several_texts(kind: str, tokenizer: Tokenizer) -> None:
    lm = load(kind, tokenizer)
    model, texts = lm.packed, tiny.random_texts(5)
    assert model is not None
    with torch.inference_mode():
        packed = model.pack([texts])
        logits = model.next_token_logits(packed, model.hidden(packed, model.adapters([lm.get_adapter()])))
        for text, row in zip(texts, logits, strict=True):
            expected = lm.model(input_ids=torch.tensor(text[None])).logits[0, -1]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_prompt_does_not_depend_on_others(precision: str, temperature: float, tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer, precision=precision)
    options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
    together = generate(lm, PROMPTS, **options)
    assert together == [generate(lm, [prompt], **options)[0] for prompt in PROMPTS]
    assert together[::-1] == generate(lm, PROMPTS[::-1], **options)


def test_draws_follow_the_models_probabilities(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer)
    assert lm.packed is not None
    adapter, temperature, draws = lm.get_adapter(), 0.5, 600
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1]
        expected = torch.softmax(logits / temperature, 0).numpy()
    drawn = [next(next_tokens(lm.packed, adapter, [5, 6], temperature, seed)) for seed in range(draws)]
    counts = np.bincount(drawn, minlength=tiny.VOCAB)
    likely = expected > 0.02
    assert likely.sum() >= 5
    sigma = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected)[likely] < 5 * sigma[likely]).all()
    assert list(islice(next_tokens(lm.packed, adapter, [5], 1.0, 8), 5)) == list(
        islice(next_tokens(lm.packed, adapter, [5], 1.0, 8), 5)
    )


def test_the_adapter_counts(tokenizer: Tokenizer) -> None:
    lm = load("gpt2", tokenizer)
    changed = generate(lm, ["My order"], max_new_tokens=12, temperature=0, seed=1)
    lm.set_adapter(lm.initial_adapter())
    assert generate(lm, ["My order"], max_new_tokens=12, temperature=0, seed=1) != changed
