"""Local training: deterministic, every field of the recipe takes effect, the loss is a plain sum."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import fedmq
from fedmq.errors import ConfigError, DataError
from fedmq.learning.adapter_folder import read_adapter
from fedmq.learning.bases import digest as base_digest
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import Diverged, Stopped, TrainResult, train
from fedmq.recipe import LoRASpec, TrainingRecipe
from fedmq.tensors import digest

Texts = Sequence[np.ndarray]


of_hf_alone = pytest.mark.parametrize("engine", ["hf"], indirect=True)


def load(folder: Path, lora: LoRASpec, engine: str) -> LanguageModel:
    return LanguageModel.load(str(folder), lora, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32")


@pytest.fixture
def still(gpt2_folder: Path, lora: LoRASpec, engine: str) -> LanguageModel:
    """A model without dropout, in the base or in the adapter."""
    lm = load(gpt2_folder, replace(lora, lora_dropout=0.0), engine)
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return lm


def run(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path, *, seed: int = 7, **options: object
) -> TrainResult:
    lm.set_adapter(lm.initial_adapter())
    return train(lm, texts, recipe, seed=seed, **options)


def test_learns_and_reports(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path) -> None:
    before = evaluate(lm, texts, batch_size=4).eval_loss
    steps: list[tuple[int, int]] = []
    result = run(lm, texts, recipe, tmp_path, on_step=lambda step, total: steps.append((step, total)))
    after = evaluate(lm, texts, batch_size=4).eval_loss
    assert after < result.train_loss < before
    assert steps == [(i + 1, 10) for i in range(10)]
    assert result.num_steps == 10
    assert result.num_examples == 20
    assert result.num_tokens == 2 * sum(len(text) - 1 for text in texts)
    assert result.train_seconds > 0
    assert [record["step"] for record in result.log_history if "loss" in record] == list(range(1, 11))


def test_repeats_to_the_bit_whatever_came_before(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    first = run(lm, texts, recipe, tmp_path)
    adapter = digest(lm.get_adapter())
    run(lm, texts[:5], replace(recipe, num_epochs=1), tmp_path, seed=8)  # another client in between
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    again = run(lm, texts, recipe, tmp_path)
    assert digest(lm.get_adapter()) == adapter
    assert again.train_loss == first.train_loss
    run(lm, texts, recipe, tmp_path, seed=9)
    assert digest(lm.get_adapter()) != adapter


def test_dropout_is_drawn_from_the_seed(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    digests = []
    for seed in (7, 8, 7):
        run(lm, texts, replace(recipe, shuffle_dataset=False), tmp_path, seed=seed)
        digests.append(digest(lm.get_adapter()))
    assert digests[0] == digests[2] != digests[1]


@of_hf_alone  # the weights of "fast" are loaded in their precision
def test_precision_is_that_of_this_call_not_of_the_one_before(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    digests = []
    for precision in ("fp32", "bf16", "bf16", "auto"):
        run(lm, texts, replace(recipe, precision=precision, num_epochs=1), tmp_path)
        digests.append(digest(lm.get_adapter()))
    assert digests[0] == digests[3] != digests[1] == digests[2]


@pytest.mark.parametrize("engine", [pytest.param("hf", marks=pytest.mark.nightly), "fast"], indirect=True)
def test_another_process_trains_the_same(
    engine: str, lm: LanguageModel, texts: Texts, lora: LoRASpec, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    run(lm, texts, recipe, tmp_path)
    np.savez(tmp_path / "texts.npz", *texts)
    code = f"""
import sys, numpy as np
from pathlib import Path
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train
from fedmq.recipe import LocalMethodSpec, LoRASpec, TrainingRecipe
from fedmq.tensors import digest
folder = Path({str(tmp_path)!r})
archive = np.load(folder / "texts.npz")
options = {{"max_length": 32, "seed": 1, "device": "cpu", "engine": {engine!r}, "precision": "fp32"}}
lm = LanguageModel.load({lm.name!r}, {lora!r}, **options)
train(lm, [archive[name] for name in archive.files], {recipe!r}, seed=7)
print(digest(lm.get_adapter()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        cwd=Path(fedmq.__file__).parent.parent,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == digest(lm.get_adapter())


def test_leaves_base_random_state_threads_and_model_as_they_were(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = lm.model.get_base_model()
    frozen = {name: value.clone() for name, value in base.state_dict().items() if "lora_" not in name}
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    threads = torch.get_num_threads()
    during: list[int] = []
    run(
        lm,
        texts[:4],
        replace(recipe, num_threads=2, precision="bf16" if lm.packed is None else "fp32", num_epochs=1, eval_steps=1),
        tmp_path,
        val=texts[:2],
        on_step=lambda step, total: during.append(torch.get_num_threads()),
    )
    assert during == [2]
    assert all(torch.equal(value, frozen[name]) for name, value in base.state_dict().items() if name in frozen)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert torch.get_num_threads() == threads
    assert lm.model.config.use_cache, "generation would run without its cache"
    assert not lm.model.training
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    logits = lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits), "autocast or dropout stayed on"
    assert not list(tmp_path.iterdir()) and not Path("trainer_output").exists(), "the Trainer left a folder"
    assert capfd.readouterr() == ("", "")


def test_base_digest_is_that_of_the_base_after_training(
    engine: str, gpt2_folder: Path, lora: LoRASpec, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    lm = load(gpt2_folder, lora, engine)
    run(lm, texts, recipe, tmp_path)
    assert base_digest(lm.model.unload()) == lm.base_digest


def hand_written(lm: LanguageModel, batches: list[list[np.ndarray]], recipe: TrainingRecipe) -> tuple[float, int]:
    """AdamW, linear schedule, clipping and accumulation in plain torch; returns (sum of NLL, targets)."""
    parameters = [p for p in lm.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    every = recipe.gradient_accumulation_steps
    total = math.ceil(len(batches) / every)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, total)
    nll_sum, count = 0.0, 0
    lm.model.train()
    for start in range(0, len(batches), every):
        group = batches[start : start + every]
        targets = sum(len(text) - 1 for batch in group for text in batch)
        for batch in group:
            for text in batch:  # one text at a time: no padding at all
                ids = torch.tensor(text[None].astype(np.int64))
                log_p = torch.log_softmax(lm.model(input_ids=ids).logits[0, :-1], -1)
                nll = -log_p.gather(1, ids[0, 1:, None]).sum()
                (nll / targets).backward()
                nll_sum += nll.item()
        count += targets
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    lm.model.eval()
    return nll_sum, count


@pytest.mark.parametrize(("accumulation", "clip", "warmup"), [(1, 1.0, 0), (2, 0.01, 2), (3, 1.0, 1)])
def test_equals_a_hand_written_loop(
    still: LanguageModel,
    texts: Texts,
    recipe: TrainingRecipe,
    accumulation: int,
    clip: float,
    warmup: int,
    tmp_path: Path,
) -> None:
    recipe = replace(
        recipe,
        num_epochs=1,
        shuffle_dataset=False,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=clip,
        warmup_steps=warmup,
    )
    result = run(still, texts, recipe, tmp_path)
    ours = still.get_adapter()
    still.set_adapter(still.initial_adapter())
    nll_sum, count = hand_written(still, [list(texts[i : i + 4]) for i in range(0, 20, 4)], recipe)
    assert result.num_tokens == count
    assert result.num_steps == math.ceil(5 / accumulation)
    assert result.train_loss == pytest.approx(nll_sum / count, rel=1e-5)
    for name, value in still.get_adapter().items():
        np.testing.assert_allclose(ours[name], value, atol=2e-4, err_msg=name)  # AdamW divides rounding by itself


def test_first_logged_loss_is_the_plain_sum(
    still: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    expected = evaluate(still, texts[:4], batch_size=4).eval_loss
    result = run(still, texts, replace(recipe, shuffle_dataset=False), tmp_path)
    assert result.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_schedule_and_optimiser_fields_take_effect(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    def rates(**changed: object) -> list[float]:
        history = run(lm, texts, replace(recipe, **changed), tmp_path).log_history
        return [record["learning_rate"] for record in history if "learning_rate" in record]

    assert rates() == pytest.approx([1e-2 * (10 - i) / 10 for i in range(10)])
    assert rates(warmup_steps=5)[:6] == pytest.approx([1e-2 * i / 5 for i in range(6)])
    assert rates(logging_steps=5) == pytest.approx([1e-2 * 0.6, 1e-2 * 0.1])
    of_the_trainer = [{"precision": "bf16"}] if lm.packed is None else []
    digests = set()
    for changed in (
        {},
        *of_the_trainer,
        {"weight_decay": 0.5},
        {"max_grad_norm": 1e-5},
        {"learning_rate": 2e-2},
        {"batch_size": 5},
        {"gradient_accumulation_steps": 2},
        {"num_epochs": 1},
        {"shuffle_dataset": False},
        {"max_samples_per_client": 8},
        {"warmup_steps": 3},
    ):
        run(lm, texts, replace(recipe, **changed), tmp_path)
        digests.add(digest(lm.get_adapter()))
    assert len(digests) == 10 + len(of_the_trainer)
    run(lm, texts, replace(recipe, precision="auto"), tmp_path)
    assert digest(lm.get_adapter()) in digests, "auto is fp32, or what was loaded"


def test_order_and_subset(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path, first_tokens: list[int]
) -> None:
    marked = [np.array([i, 1, 2, 0]) for i in range(20)]

    def order(seed: int = 7, subset_seed: int = 0, **changed: object) -> list[int]:
        first_tokens.clear()
        result = run(lm, marked, replace(recipe, **changed), tmp_path, seed=seed, subset_seed=subset_seed)
        assert result.num_examples == len(set(first_tokens))
        return list(first_tokens)

    shuffled = order()
    assert sorted(shuffled[:20]) == sorted(shuffled[20:]) == list(range(20))
    assert shuffled[:20] != shuffled[20:] and shuffled[:20] != list(range(20))
    assert order() == shuffled != order(seed=8)
    assert order(shuffle_dataset=False) == 2 * list(range(20))
    few = order(shuffle_dataset=False, max_samples_per_client=6)
    assert few[:6] == few[6:] == sorted(set(few)) and len(few) == 12
    assert order(shuffle_dataset=False, max_samples_per_client=6) == few
    assert order(shuffle_dataset=False, max_samples_per_client=6, seed=8) == few, "another round, the same texts"
    assert sorted(set(order(max_samples_per_client=6, subset_seed=1))) != few[:6]
    assert sorted(order(max_samples_per_client=99)) == sorted(shuffled)


def test_eval_steps_score_the_validation_texts(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    val = texts[:5]
    result = run(lm, texts, replace(recipe, eval_steps=4), tmp_path, val=val)
    scored = [(record["step"], record["eval_loss"]) for record in result.log_history if "eval_loss" in record]
    assert [step for step, _ in scored] == [4, 8]
    with_eval = digest(lm.get_adapter())
    run(lm, texts, recipe, tmp_path)
    assert digest(lm.get_adapter()) == with_eval, "looking changed the training"
    last = run(lm, texts, replace(recipe, eval_steps=10), tmp_path, val=val).log_history
    (loss,) = [record["eval_loss"] for record in last if "eval_loss" in record]
    assert loss == evaluate(lm, val, batch_size=4).eval_loss
    if lm.packed is None:
        half = run(lm, texts, replace(recipe, eval_steps=10, precision="bf16"), tmp_path, val=val).log_history
        (loss,) = [record["eval_loss"] for record in half if "eval_loss" in record]
        assert loss == evaluate(lm, val, batch_size=4).eval_loss, "scored in bf16"
    assert not [
        r for r in run(lm, texts, replace(recipe, eval_steps=4), tmp_path, val=[]).log_history if "eval_loss" in r
    ]


def test_save_steps_write_peft_folders(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path) -> None:
    run(lm, texts, replace(recipe, save_steps=5), tmp_path, snapshot_dir=tmp_path / "snapshots")
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["step_10", "step_5"]
    tensors, config = read_adapter(tmp_path / "snapshots" / "step_10")
    assert digest(tensors) == digest(lm.get_adapter())
    assert config == lm.adapter_config()
    assert digest(read_adapter(tmp_path / "snapshots" / "step_5")[0]) != digest(tensors)


def test_stops_at_once_and_trains_on_afterwards(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    run(lm, texts, recipe, tmp_path)
    expected = digest(lm.get_adapter())
    steps: list[int] = []
    with pytest.raises(Stopped):
        run(
            lm,
            texts,
            recipe,
            tmp_path,
            on_step=lambda step, total: steps.append(step),
            stopping=lambda: len(steps) == 3,
        )
    assert steps == [1, 2, 3]
    asked = iter([False, True])
    with pytest.raises(Stopped):  # between two batches of one step
        run(lm, texts, replace(recipe, gradient_accumulation_steps=2), tmp_path, stopping=lambda: next(asked))
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    run(lm, texts, recipe, tmp_path)
    assert digest(lm.get_adapter()) == expected


def test_texts_without_a_target(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path) -> None:
    for nothing in ([], [np.array([0])]):
        with pytest.raises(DataError, match="nothing to train on"):
            run(lm, nothing, recipe, tmp_path)
    first = run(lm, texts, recipe, tmp_path)
    expected = digest(lm.get_adapter())
    second = run(lm, [np.array([0]), *texts, np.array([0])], recipe, tmp_path)
    assert digest(lm.get_adapter()) == expected
    assert (second.num_examples, second.num_tokens) == (first.num_examples, first.num_tokens)


def test_precisions_that_cannot_be(lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path) -> None:
    for changed in ({"fp16": True, "precision": "auto"}, {"precision": "fp16"}):
        with pytest.raises(ConfigError, match=r"training\.fp16 / training\.precision.*needs a CUDA device.*'cpu'"):
            run(lm, texts, replace(recipe, **changed), tmp_path)
    with pytest.raises(ConfigError, match="give one of them"):
        run(lm, texts, replace(recipe, fp16=True, precision="bf16"), tmp_path)


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
def test_weights_are_trained_in_the_precision_they_were_loaded_in(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r'training\.precision is "bf16".* loaded in fp32'):
        run(lm, texts, replace(recipe, precision="bf16"), tmp_path)


@of_hf_alone
def test_a_model_loaded_for_the_trainer_is_not_trained_by_fast(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r'training\.engine is "fast".*loaded for another: engine hf'):
        run(lm, texts, replace(recipe, engine="fast"), tmp_path)


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
def test_a_model_loaded_for_fast_is_trained_by_the_trainer_where_the_recipe_says_so(
    still: LanguageModel, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    fast = run(still, texts, recipe, tmp_path)
    by_the_trainer = run(still, texts, replace(recipe, engine="hf"), tmp_path)
    assert fast.train_loss == pytest.approx(by_the_trainer.train_loss, rel=1e-4)
    assert {"total_flos", "train_runtime"} <= by_the_trainer.log_history[-1].keys()


def test_all_adapter_parameters_move_and_biases_too(
    engine: str, gpt2_folder: Path, lora: LoRASpec, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    # Engine "fast" refuses biases.
    lm = load(gpt2_folder, replace(lora, bias="all" if engine == "hf" else "none"), engine)
    run(lm, texts, recipe, tmp_path)
    before, after = lm.initial_adapter(), lm.get_adapter()
    assert [name for name in after if np.array_equal(after[name], before[name])] == []


def test_llama_trains(
    engine: str, llama_folder: Path, lora: LoRASpec, texts: Texts, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    lm = load(llama_folder, replace(lora, target_modules=("q_proj", "v_proj")), engine)
    before = evaluate(lm, texts, batch_size=4).eval_loss
    result = run(lm, texts, recipe, tmp_path)
    assert evaluate(lm, texts, batch_size=4).eval_loss < before
    assert result.log_history[0]["loss"] == pytest.approx(before, abs=0.2)


def test_an_adapter_that_the_last_step_ruins_is_not_handed_out(
    lm: LanguageModel, texts: Texts, recipe: TrainingRecipe
) -> None:
    """Loss and gradient of the only step are finite; what the step makes of the adapter is not."""
    lm.set_adapter({name: np.full_like(v, 2.0 if "lora_A" in name else 0.0) for name, v in lm.get_adapter().items()})
    before = digest(lm.get_adapter())
    # The decay alone multiplies A by 1 - 3e38.
    recipe = replace(recipe, num_epochs=1, batch_size=len(texts), learning_rate=3e37, weight_decay=10.0)
    with pytest.raises(Diverged, match=r"adapter is not finite after step 1 of 1 \(learning rate 3e\+37\)"):
        train(lm, texts, recipe, seed=1)
    assert digest(lm.get_adapter()) == before
