"""A base that grows: the model is that of an adapter of larger rank, and its bits do not depend on the way there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from fedmq.errors import LocalProtocolError
from fedmq.learning.adapter_folder import read_adapter
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.learning.train import train
from fedmq.recipe import LoRASpec, TrainingRecipe
from fedmq.tensors import NamedTensors, digest

TARGETS = {"gpt2": ("c_attn", "c_proj"), "llama": ("q_proj", "up_proj", "down_proj")}


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, gpt2_folder: Path, llama_folder: Path) -> Path:
    """GPT-2 stores its weights (in, out), Llama (out, in)."""
    return {"gpt2": gpt2_folder, "llama": llama_folder}[request.param]


def load(folder: Path, lora: LoRASpec, engine: str, precision: str = "fp32") -> LanguageModel:
    spec = replace(lora, target_modules=TARGETS[folder.name])
    options = {"max_length": 32, "seed": 1, "device": "cpu", "engine": engine, "precision": precision}
    lm = LanguageModel.load(str(folder), spec, **options)
    lm.set_adapter(drawn(lm, 0, 4))
    return lm


def drawn(lm: LanguageModel, seed: int, rank: int) -> NamedTensors:
    """Factors of this rank for every module."""
    rng, found = np.random.default_rng(seed), {}
    for name, value in lm.initial_adapter().items():
        shape = (rank, value.shape[1]) if ".lora_A." in name else (value.shape[0], rank)
        found[name] = rng.normal(0, 0.3, shape).astype(np.float32)
    return found


def links(lm: LanguageModel) -> dict[str, NamedTensors]:
    """Three: of a small rank, of some modules only, and of a rank beyond the width."""
    some = dict(list(drawn(lm, 2, 3).items())[:2])
    return {"one": drawn(lm, 1, 2), "two": some, "three": drawn(lm, 3, 40)}


def test_the_model_is_that_of_a_larger_adapter(
    folder: Path, lora: LoRASpec, engine: str, texts: list[np.ndarray], tmp_path: Path
) -> None:
    lm = load(folder, lora, engine)
    lm.save_adapter(tmp_path / "before")
    lm.grow(list(links(lm)), links(lm).__getitem__)
    found = evaluate(lm, texts, batch_size=4).eval_loss
    lm.save_adapter(tmp_path / "adapter")
    ids = torch.tensor(texts[0].astype(np.int64))[None]
    with torch.inference_mode(), library_warnings_to_log():
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        before = PeftModel.from_pretrained(base, tmp_path / "before").eval()(input_ids=ids).logits
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        by_peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=ids).logits
        ours = lm.model(input_ids=ids).logits
        lm.save_merged(tmp_path / "merged")
        merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    assert (ours - before).abs().max() > 0.1, "the links change something"
    assert torch.allclose(by_peft, ours, atol=1e-4)
    assert torch.allclose(merged, ours, atol=1e-4)
    if engine == "fast":
        hf = load(folder, lora, "hf")
        hf.grow(list(links(hf)), links(hf).__getitem__)
        assert evaluate(hf, texts, batch_size=4).eval_loss == pytest.approx(found, rel=1e-5)


def bits(lm: LanguageModel, texts: list[np.ndarray]) -> float:
    return evaluate(lm, texts, batch_size=4).loss_sum


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_by_one_or_all_at_once_or_back_and_forth_gives_the_same_bits(
    folder: Path, lora: LoRASpec, texts: list[np.ndarray], precision: str
) -> None:
    lm = load(folder, lora, "fast", precision)
    known = links(lm)
    none = bits(lm, texts)
    read: list[str] = []

    def grow(*names: str) -> float:
        lm.grow(names, lambda name: (read.append(name), known[name])[1])
        return bits(lm, texts)

    steps = [grow("one"), grow("one", "two"), grow("one", "two", "three")]
    assert read == ["one", "two", "three"], "what is in the base is not read again"
    assert len({none, *steps}) == 4
    assert grow("one") == steps[0], "an older base, of an evaluation that comes late"
    assert grow() == none
    assert grow("one", "two", "three") == steps[2], "as who joins late"


def test_links_are_multiplied_on_one_thread(lora: LoRASpec, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a product is cut up shows in its last digits, and a worker may have any number of threads."""
    lm, set_to = load(gpt2_folder, lora, "fast"), []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    lm.grow(["two"], lambda name: links(lm)["two"])
    assert set_to == [1, 3], "of its one module, and then as before"


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"base_model.model.nowhere.lora_A.weight": np.ones((1, 32), np.float32)}, "this model has no such module"),
        ("narrow", "has the shape"),
    ],
)
def test_links_of_another_model_are_refused_and_change_nothing(
    lora: LoRASpec, gpt2_folder: Path, texts: list[np.ndarray], link: NamedTensors | str, says: str
) -> None:
    lm = load(gpt2_folder, lora, "fast")
    before = bits(lm, texts)
    if isinstance(link, str):
        link = {name: value[:, :3] if ".lora_A." in name else value for name, value in drawn(lm, 1, 2).items()}
    with pytest.raises(LocalProtocolError, match=says):
        lm.grow(["x"], lambda name: link)
    assert bits(lm, texts) == before


def test_snapshots_of_a_training_are_of_the_whole_model(
    lora: LoRASpec, engine: str, gpt2_folder: Path, texts: list[np.ndarray], recipe: TrainingRecipe, tmp_path: Path
) -> None:
    lm = load(gpt2_folder, lora, engine)
    lm.grow(["one"], lambda name: links(lm)["one"])
    train(lm, texts, replace(recipe, num_epochs=1, save_steps=5), seed=1, snapshot_dir=tmp_path)
    lm.save_adapter(tmp_path / "last")
    snapshot, config = read_adapter(tmp_path / "step_5")
    assert digest(snapshot) == digest(read_adapter(tmp_path / "last")[0])
    assert set(config["rank_pattern"].values()) == {4 + 2}, "the adapter's rank and the link's"
