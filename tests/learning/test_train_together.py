"""Clients that are trained together get what each would get alone, under both engines."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from fedmq.errors import DataError
from fedmq.learning.adapter_folder import read_adapter
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import load_tokenizer
from fedmq.learning.train import Diverged, Share, Stopped, TrainResult, train, train_together
from fedmq.recipe import LoRASpec, TrainingRecipe
from fedmq.tensors import digest

Texts = Sequence[np.ndarray]
COUNTS = (3, 12, 1, 9, 6)
SICK = 399  # a token that no other text has


def shares(texts: Texts, counts: Sequence[int] = COUNTS) -> list[Share]:
    """Clients with texts of their own, in different numbers."""
    rng = np.random.default_rng(0)
    chosen = [[texts[int(i)] for i in rng.choice(len(texts), count, replace=False)] for count in counts]
    return [Share(own, seed=100 + k) for k, own in enumerate(chosen)]


def vector(adapter: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([adapter[name].ravel() for name in sorted(adapter)])


def alone(lm: LanguageModel, share: Share, recipe: TrainingRecipe) -> tuple[TrainResult, dict[str, np.ndarray]]:
    start = lm.get_adapter()
    result = train(lm, share.texts, recipe, seed=share.seed, subset_seed=share.subset_seed)
    adapter = lm.get_adapter()
    lm.set_adapter(start)
    return result, adapter


def assert_same(
    together: tuple[TrainResult, dict[str, np.ndarray]] | Diverged,
    expected: tuple[TrainResult, dict[str, np.ndarray]],
    start: dict[str, np.ndarray],
) -> None:
    assert not isinstance(together, Diverged), together
    ours, wanted = together[0], expected[0]
    assert ours.train_loss == pytest.approx(wanted.train_loss, rel=1e-4)
    assert ours[1:4] == wanted[1:4]
    histories = [[record for record in result.log_history if "loss" in record] for result in (ours, wanted)]
    for key in ("loss", "grad_norm", "learning_rate", "epoch", "step"):
        a, b = ([record[key] for record in history] for history in histories)
        assert len(a) == wanted.num_steps and a == pytest.approx(b, rel=1e-3 if key == "grad_norm" else 1e-4), key
    # AdamW divides rounding by itself where a gradient is all but zero: the whole is compared, not each value.
    moved = vector(expected[1]) - vector(start)
    assert np.linalg.norm(moved) > 0
    assert np.linalg.norm(vector(together[1]) - vector(expected[1])) < 1e-4 * np.linalg.norm(vector(expected[1]))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gradient_accumulation_steps": 2, "warmup_steps": 2, "max_grad_norm": 0.05},
        {"max_samples_per_client": 5, "gradient_checkpointing": True},
    ],
    ids=["plain", "accumulated", "subset"],
)
def test_equals_training_each_alone(
    trained: LanguageModel, texts: Texts, recipe: TrainingRecipe, changed: dict[str, object]
) -> None:
    recipe = replace(recipe, learning_rate=2e-3, **changed)
    start = trained.get_adapter()
    own = shares(texts)
    steps: list[tuple[int, int]] = []
    outcomes = train_together(trained, own, recipe, on_step=lambda step, total: steps.append((step, total)))
    assert digest(trained.get_adapter()) == digest(start), "the model's own adapter stays"
    expected = [alone(trained, share, recipe) for share in own]
    for outcome, wanted in zip(outcomes, expected, strict=True):
        assert_same(outcome, wanted, start)
    each = [result.num_steps for result, _ in expected]
    assert len(set(each)) > 1
    # Engine "fast" takes a step of all at once, engine "hf" one client after another.
    total = max(each) if trained.packed is not None else sum(each)
    assert steps == [(step, total) for step in range(1, total + 1)]


def test_seconds_add_up(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe) -> None:
    results = [outcome[0] for outcome in train_together(lm, shares(texts), recipe)]  # type: ignore[index]
    assert all(result.train_seconds > 0 for result in results)
    if lm.packed is not None:
        rates = [result.train_seconds / result.num_tokens for result in results]
        assert rates == pytest.approx([rates[0]] * len(rates))


def test_the_order_of_clients_does_not_count(trained: LanguageModel, texts: Texts, recipe: TrainingRecipe) -> None:
    own, start = shares(texts), trained.get_adapter()
    recipe = replace(recipe, learning_rate=2e-3)
    forward, backward = train_together(trained, own, recipe), train_together(trained, own[::-1], recipe)
    for one, other in zip(forward, backward[::-1], strict=True):
        assert not isinstance(other, Diverged)
        assert_same(one, other, start)


@pytest.fixture(scope="module")
def sick_lm(engine: str, gpt2_folder: Path, lora: LoRASpec) -> LanguageModel:
    """A base that computes infinities wherever it reads the token `SICK`; the head is not the embedding."""
    base = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.float32)
    config = copy.deepcopy(base.config)
    config.tie_word_embeddings = False
    untied = transformers.GPT2LMHeadModel(config)
    untied.load_state_dict(base.state_dict())
    with torch.no_grad():
        untied.transformer.wte.weight[SICK] = float("inf")
    tokenizer = load_tokenizer(str(gpt2_folder))
    return LanguageModel(
        "sick", untied, tokenizer, lora, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32"
    )


@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_that_diverges_harms_no_other(
    sick_lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, place: int
) -> None:
    recipe = replace(recipe, learning_rate=2e-3, shuffle_dataset=False)
    healthy = [text for text in texts if SICK not in text]
    own = shares(healthy)
    assert len(own[1].texts) == 12
    # At the start of its third batch of four, in the longest text of all: with `place` 0 the first row of a pass.
    sick_text = np.concatenate([[SICK], healthy[0][:30], [0]])
    own[1] = replace(own[1], texts=[*own[1].texts[:8], sick_text, *own[1].texts[9:]])
    own.insert(place, own.pop(1))
    start = sick_lm.get_adapter()
    outcomes = train_together(sick_lm, own, recipe)
    expected_rate = 2e-3 * 4 / 6
    for k, outcome in enumerate(outcomes):
        if k == place:
            assert isinstance(outcome, Diverged)
            assert re.search(rf"loss is nan at step 3 of 6 \(learning rate {expected_rate:.3g}\)", str(outcome))
        else:
            assert_same(outcome, alone(sick_lm, own[k], recipe), start)
    with pytest.raises(Diverged, match="at step 3 of 6"):
        train(sick_lm, own[place].texts, recipe, seed=1)
    assert digest(sick_lm.get_adapter()) == digest(start), "what diverged is not kept"


def test_all_that_diverge_are_named(sick_lm: LanguageModel, recipe: TrainingRecipe) -> None:
    outcomes = train_together(sick_lm, [Share([np.array([5, SICK, 0])], k) for k in range(2)], recipe)
    assert [type(outcome) for outcome in outcomes] == [Diverged, Diverged]


@pytest.mark.parametrize("engine", ["fast"], indirect=True)  # the Trainer clips such a gradient to 0 and goes on
def test_a_gradient_that_is_no_number_is_a_divergence(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe) -> None:
    # With A = 0 the adapter does nothing, so the loss is a number; A's gradient has B in it.
    start = {name: np.full_like(value, 1e30 if "lora_B" in name else 0) for name, value in lm.get_adapter().items()}
    lm.set_adapter(start)
    (outcome,) = train_together(lm, [Share(texts, 1)], recipe)
    assert isinstance(outcome, Diverged)
    assert re.search(r"the gradient's norm is inf at step 1 of 10 \(learning rate 0\.01\)", str(outcome))


def test_scores_and_snapshots_are_each_clients_own(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    recipe = replace(recipe, eval_steps=2, save_steps=2)
    own = [
        replace(share, val=texts[k : k + 2] if k else None, snapshot_dir=tmp_path / str(k) if k < 4 else None)
        for k, share in enumerate(shares(texts))
    ]
    outcomes = train_together(lm, own, recipe)
    scores = []
    for k, outcome in enumerate(outcomes):
        assert not isinstance(outcome, Diverged)
        result, adapter = outcome
        looks = list(range(2, result.num_steps + 1, 2))
        found = [(record["step"], record["eval_loss"]) for record in result.log_history if "eval_loss" in record]
        assert [step for step, _ in found] == (looks if k else [])
        scores += [loss for _, loss in found]
        if k < 4:
            names = sorted(path.name for path in (tmp_path / str(k)).iterdir()) if looks else []
            assert names == sorted(f"step_{step}" for step in looks)
            if looks and looks[-1] == result.num_steps:
                assert digest(read_adapter(tmp_path / str(k) / f"step_{looks[-1]}")[0]) == digest(adapter)
    assert len(set(scores)) == len(scores) > 4
    assert not (tmp_path / "4").exists()


def test_stops_between_batches(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe) -> None:
    start, asked = lm.get_adapter(), iter([False, False, True])
    with pytest.raises(Stopped):
        train_together(lm, shares(texts), recipe, stopping=lambda: next(asked))
    assert digest(lm.get_adapter()) == digest(start)


def test_nobody_is_trained_where_one_has_nothing(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe) -> None:
    steps: list[int] = []
    with pytest.raises(DataError, match="nothing to train on: none of the 1 texts"):
        train_together(
            lm, [*shares(texts), Share([np.array([0])], 1)], recipe, on_step=lambda step, _: steps.append(step)
        )
    assert steps == []
