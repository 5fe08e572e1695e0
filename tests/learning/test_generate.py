"""Generation: seeded per prompt, stops at EOS, refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from fedmq.errors import ConfigError
from fedmq.learning.generate import generate
from fedmq.learning.models import LanguageModel
from fedmq.recipe import LoRASpec


def test_greedy_is_the_most_likely_token_each_time(trained: LanguageModel) -> None:
    ids = trained.tokenizer.encode_prompt("My order")
    expected = list(ids)
    with torch.inference_mode():
        for _ in range(8):
            token = int(trained.model(input_ids=torch.tensor([expected])).logits[0, -1].argmax())
            if token == trained.tokenizer.eos_token_id:
                break
            expected.append(token)
    (text,) = generate(trained, ["My order"], max_new_tokens=8, temperature=0, seed=1)
    assert text == trained.tokenizer.decode(expected)[len("My order") :]


def test_sampling_depends_on_seed_and_prompt_not_on_company(lm: LanguageModel) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0}
    state = torch.get_rng_state()
    alone = generate(lm, ["The app"], seed=7, **options)
    assert torch.equal(torch.get_rng_state(), state)
    together = generate(lm, ["My order is", "The app", ""], seed=7, **options)
    assert together[1:2] == alone
    assert len(set(together)) == 3
    assert generate(lm, ["The app"], seed=8, **options) != alone


def test_samples_from_the_whole_distribution_at_the_temperature(lm: LanguageModel) -> None:
    # An untrained model is nearly uniform over 400 tokens: top-k 50 would show at once.
    texts = [generate(lm, ["x"], max_new_tokens=20, temperature=1.0, seed=seed)[0] for seed in range(5)]
    cold = [generate(lm, ["x"], max_new_tokens=20, temperature=1e-4, seed=seed)[0] for seed in range(2)]
    ids = {int(i) for text in texts for i in lm.tokenizer.encode_prompt(text)}
    assert len(ids) > 55
    assert cold[0] == cold[1] == generate(lm, ["x"], max_new_tokens=20, temperature=0, seed=9)[0]


def test_stops_at_eos(engine: str, gpt2_folder: Path, lora: LoRASpec, tmp_path: Path) -> None:
    """A base that says EOS whatever it reads: what its last normalisation gives is the same for all rows."""
    folder = shutil.copytree(gpt2_folder, tmp_path / "m")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    head, eos = weights["transformer.wte.weight"], 0  # tied
    weights["transformer.ln_f.weight"][:] = 0
    weights["transformer.ln_f.bias"][:] = 1e6 * head[eos]
    logits = head @ weights["transformer.ln_f.bias"]
    assert logits[eos] > np.delete(logits, eos).max() + 100
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    lm = LanguageModel.load(str(folder), lora, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32")
    assert lm.tokenizer.eos_token_id == eos
    assert generate(lm, ["hello", ""], max_new_tokens=20, temperature=1.0, seed=1) == ["", ""]


def test_top_p_leaves_the_likely_tokens(lm: LanguageModel) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0}
    greedy = generate(lm, ["The app"], max_new_tokens=12, temperature=0, seed=1)
    assert generate(lm, ["The app"], **options, seed=7, top_p=1e-6) == greedy, "the likeliest always stays"
    assert generate(lm, ["The app"], **options, seed=7, top_p=1.0) != greedy
    with torch.inference_mode():
        ids = lm.tokenizer.encode_prompt("The app")
        probabilities = torch.softmax(lm.model(input_ids=torch.tensor([ids])).logits[0, -1], 0)
    order = probabilities.argsort(descending=True)
    kept = {int(token) for token in order[: int((probabilities[order].cumsum(0) < 0.1).sum()) + 1]}
    first = {generate(lm, ["The app"], max_new_tokens=1, temperature=1.0, seed=s, top_p=0.1)[0] for s in range(40)}
    assert len(first) > 3 and first <= {lm.tokenizer.decode([*ids, token])[len("The app") :] for token in kept}


def test_pieces_are_the_text_and_hold_no_half_characters(lm: LanguageModel) -> None:
    heard: list[tuple[int, str]] = []
    options = {"max_new_tokens": 30, "temperature": 1.0, "seed": 5}
    texts = generate(lm, ["My order", "", "The app"], **options, on_text=lambda k, piece: heard.append((k, piece)))
    assert texts == generate(lm, ["My order", "", "The app"], **options)
    assert ["".join(piece for at, piece in heard if at == k) for k in range(3)] == texts
    assert [at for at, _ in heard] == sorted(at for at, _ in heard) and len(heard) > 20


def test_what_does_not_fit_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"'hello.*max_new_tokens 64.*64 positions; lower max_new_tokens to"):
        generate(lm, ["hello"], max_new_tokens=64, temperature=0, seed=1)
    with pytest.raises(ConfigError, match=r"has \d\d\d tokens.*64 positions; shorten the prompt"):
        generate(lm, ["hello my order " * 40], max_new_tokens=1, temperature=0, seed=1)
    prompt = lm.tokenizer.decode(np.full(60, lm.tokenizer.encode_prompt("a")[0]))
    assert len(generate(lm, [prompt], max_new_tokens=4, temperature=0, seed=1)) == 1


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_settings_of_the_base_do_not_count(
    engine: str, gpt2_folder: Path, lora: LoRASpec, lm: LanguageModel, tmp_path: Path, temperature: float
) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "m")
    own = {"do_sample": True, "repetition_penalty": 1.3, "top_p": 0.9, "top_k": 3, "temperature": 5.0, "min_p": 0.1}
    own |= {"no_repeat_ngram_size": 2, "suppress_tokens": list(range(100)), "min_new_tokens": 3, "num_beams": 2}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(own))
    other = LanguageModel.load(
        str(tmp_path / "m"), lora, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32"
    )
    options = {"max_new_tokens": 16, "temperature": temperature, "seed": 7}
    prompts = ["My order", "The app the app the app", ""]
    assert generate(other, prompts, **options) == generate(lm, prompts, **options)
    assert other.model.get_base_model().generation_config.repetition_penalty == 1.3, "it is the user's file"


def test_prints_nothing(lm: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    generate(lm, ["hello"], max_new_tokens=3, temperature=0.7, seed=1)
    generate(lm, ["hello"], max_new_tokens=3, temperature=0, seed=1)
    assert capfd.readouterr() == ("", "")
