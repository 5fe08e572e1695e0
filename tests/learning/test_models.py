"""Loading, the adapter in and out, what is refused, and agreement with peft's own files."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from peft import PeftModel

from fedmq.errors import ConfigError, LocalProtocolError, ModelError, StorageError
from fedmq.learning import models
from fedmq.learning.devices import resolve_device
from fedmq.learning.models import LanguageModel, load_for_inference, load_tokenizer
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.recipe import LoRASpec

IDS = torch.tensor([[5, 6, 7, 8, 9, 0]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def load(folder: Path, lora: LoRASpec, **changed: object) -> LanguageModel:
    options = {"max_length": 32, "seed": 1, "device": "cpu"} | changed
    return LanguageModel.load(str(folder), lora, **options)


@pytest.mark.parametrize(("targets", "count"), [(("c_attn",), 294_912), (("c_attn", "c_proj"), 811_008)])
def test_trainable_parameters_of_gpt2_small(
    targets: tuple[str, ...], count: int, engine: str, gpt2_folder: Path, lora: LoRASpec
) -> None:
    with torch.device("meta"):
        base = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    base.to_empty(device="cpu").tie_weights()
    big = LanguageModel(
        "gpt2",
        base,
        load_tokenizer(str(gpt2_folder)),
        replace(lora, r=8, target_modules=targets),
        max_length=128,
        seed=1,
        device="cpu",
        engine=engine,
        precision="fp32",
    )
    assert (big.packed is None) == (engine == "hf")
    assert big.num_trainable == count
    assert big.num_parameters == 124_439_808 + count
    assert sum(value.size for value in big.get_adapter().values()) == count
    assert all(value.dtype == np.float32 for value in big.get_adapter().values())


def test_adapter_names_are_those_of_a_peft_file(lm: LanguageModel, tmp_path: Path) -> None:
    lm.model.save_pretrained(tmp_path)
    of_peft = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    ours = lm.get_adapter()
    assert list(ours) == sorted(of_peft)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, of_peft[name])


def test_set_then_get_is_exact_and_copies(trained: LanguageModel) -> None:
    before = trained.get_adapter()
    name = next(iter(before))
    before[name][0, 0] = np.float32(1) / 3
    before[name].flags.writeable = False  # as decoded from the wire
    trained.set_adapter(before)
    after = trained.get_adapter()
    assert all(np.array_equal(after[key], before[key]) for key in before)
    after[name][:] = 0
    assert np.array_equal(trained.get_adapter()[name], before[name])


def test_another_adapter_is_refused_by_the_name_of_the_difference(lm: LanguageModel) -> None:
    good = lm.get_adapter()
    name = next(iter(good))
    short = {key: value for key, value in good.items() if key != name}
    with pytest.raises(LocalProtocolError, match=name):
        lm.set_adapter(short)
    with pytest.raises(LocalProtocolError, match="foreign"):
        lm.set_adapter(good | {"foreign": np.zeros(1, np.float32)})
    with pytest.raises(LocalProtocolError, match=f"{name}.*shape"):
        lm.set_adapter(good | {name: good[name].T})
    with pytest.raises(LocalProtocolError, match=f"{name}.*float64"):
        lm.set_adapter(good | {name: good[name].astype(np.float64)})
    assert all(np.array_equal(value, good[key]) for key, value in lm.get_adapter().items())


def test_initial_adapter_depends_on_the_seed_alone(gpt2_folder: Path, lora: LoRASpec, lm: LanguageModel) -> None:
    torch.manual_seed(99)
    random.seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    again, other = load(gpt2_folder, lora).initial_adapter(), load(gpt2_folder, lora, seed=2).initial_adapter()
    assert torch.equal(torch.rand(1), expected), "loading moved the global random state"
    for name, value in lm.initial_adapter().items():
        assert np.array_equal(again[name], value)
        if "lora_B" in name:
            assert not value.any()
        else:
            bound = 1 / np.sqrt(value.shape[1])  # kaiming_uniform(a = sqrt 5)
            assert 0.8 * bound < np.abs(value).max() <= bound
            assert not np.array_equal(other[name], value)


def test_base_digest(gpt2_folder: Path, llama_folder: Path, lora: LoRASpec, tmp_path: Path) -> None:
    first = load(gpt2_folder, lora)
    other_adapter = load(gpt2_folder, replace(lora, r=2, target_modules=("c_fc",)), seed=9)
    assert first.base_digest == other_adapter.base_digest
    copy = shutil.copytree(gpt2_folder, tmp_path / "changed")
    weights = safetensors.numpy.load_file(copy / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.bias"][3] += np.float32(1e-3)
    safetensors.numpy.save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load(copy, lora).base_digest != first.base_digest


@pytest.mark.parametrize("targets", [("c_attn",), ("c_attn", "c_proj"), ("mlp.c_proj",), ("c_fc",)])
def test_merged_gpt2_equals_the_adapted_one(
    gpt2_folder: Path, lora: LoRASpec, targets: tuple[str, ...], tmp_path: Path
) -> None:
    lm = load(gpt2_folder, replace(lora, target_modules=targets))
    plain = logits(lm.model)
    rng = np.random.default_rng(0)
    lm.set_adapter({k: rng.normal(0, 0.3, v.shape).astype(np.float32) for k, v in lm.get_adapter().items()})
    adapted = logits(lm.model)
    assert (adapted - plain).abs().max() > 1e-2, "the adapter does nothing"
    assert lm.adapter_config()["fan_in_fan_out"] is True
    torch.testing.assert_close(logits(lm.merged()), adapted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(lm.model), adapted, atol=0, rtol=0)  # merging left it alone
    lm.save_merged(tmp_path / "merged")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(saved), adapted, atol=1e-5, rtol=1e-5)
    assert load_tokenizer(str(tmp_path / "merged")).digest == lm.tokenizer.digest


def test_llama_works_unchanged(llama_folder: Path, lora: LoRASpec) -> None:
    lm = load(llama_folder, replace(lora, target_modules=("q_proj", "v_proj")))
    assert lm.adapter_config()["fan_in_fan_out"] is False
    assert len(lm.get_adapter()) == 2 * 2 * 2
    rng = np.random.default_rng(0)
    lm.set_adapter({k: rng.normal(0, 0.3, v.shape).astype(np.float32) for k, v in lm.get_adapter().items()})
    torch.testing.assert_close(logits(lm.merged()), logits(lm.model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_our_folder_loads_with_peft(gpt2_folder: Path, lora: LoRASpec, bias: str, tmp_path: Path) -> None:
    lm = load(gpt2_folder, replace(lora, bias=bias))
    rng = np.random.default_rng(0)
    adapter = {k: rng.normal(0, 0.3, v.shape).astype(np.float32) for k, v in lm.get_adapter().items()}
    assert sum(value.size for value in adapter.values()) == lm.num_trainable
    assert any(name.endswith("bias") for name in adapter) == (bias != "none")
    lm.set_adapter(adapter)
    lm.save_adapter(tmp_path / "a")
    base = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with library_warnings_to_log():
        of_peft = PeftModel.from_pretrained(base, tmp_path / "a")
    torch.testing.assert_close(logits(of_peft), logits(lm.model), atol=0, rtol=0)
    back = load_for_inference(None, tmp_path / "a", device="cpu", max_length=32)
    assert back.lora == lm.lora
    torch.testing.assert_close(logits(back.model), logits(lm.model), atol=0, rtol=0)


def test_adapter_folders_are_byte_deterministic(lm: LanguageModel, tmp_path: Path) -> None:
    lm.save_adapter(tmp_path / "a")
    lm.save_adapter(tmp_path / "b")
    lm.save_adapter(tmp_path / "b")  # replaces
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config == lm.adapter_config()
    assert list(config) == sorted(config)
    assert config["target_modules"] == ["c_attn", "c_proj"]
    assert config["base_model_name_or_path"] == lm.name


def test_damaged_or_foreign_adapter_folders(
    gpt2_folder: Path, llama_folder: Path, lora: LoRASpec, lm: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="adapter_model.safetensors is missing"):
        load_for_inference(None, tmp_path, device="cpu", max_length=32)
    lm.save_adapter(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(StorageError, match="cannot be read"):
        load_for_inference(None, tmp_path / "a", device="cpu", max_length=32)
    lm.save_adapter(tmp_path / "a")
    with pytest.raises(ModelError, match="c_attn.*q_proj"):
        load_for_inference(str(llama_folder), tmp_path / "a", device="cpu", max_length=32)


def test_half_precision_weights_load_as_float32(gpt2_folder: Path, lora: LoRASpec, tmp_path: Path) -> None:
    half = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.float16)
    shutil.copytree(gpt2_folder, tmp_path / "half")
    half.save_pretrained(tmp_path / "half")
    assert load(tmp_path / "half", lora).model.dtype == torch.float32


def test_what_a_base_model_must_be(gpt2_folder: Path, lora: LoRASpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="max_length is 65.* 64 positions"):
        load(gpt2_folder, lora, max_length=65)
    with pytest.raises(ModelError, match="'c_atn' matches no layer.*c_attn, c_proj, c_fc"):
        load(gpt2_folder, replace(lora, target_modules=("c_attn", "c_atn")))
    with pytest.raises(ModelError, match="'lm_head' matches no layer"):  # tied to the embedding
        load(gpt2_folder, replace(lora, target_modules=("lm_head",)))
    copy = shutil.copytree(gpt2_folder, tmp_path / "copy")
    weights = safetensors.numpy.load_file(copy / "model.safetensors")
    del weights["transformer.h.0.ln_1.weight"]
    safetensors.numpy.save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 of its weights are not in .*h.0.ln_1.weight"):
        load(copy, lora)
    (copy / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy, lora)
    (copy / "model.safetensors").unlink()
    torch.save({name: torch.tensor(value) for name, value in weights.items()}, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no file named model.safetensors"):  # a pickle is never read
        load(copy, lora)
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match="not a model folder"):
        load(copy, lora)
    with pytest.raises(ModelError, match="no such folder"):
        load(tmp_path / "nowhere", lora)


def test_a_tokenizer_larger_than_the_embedding_is_refused(gpt2_folder: Path, lora: LoRASpec, tmp_path: Path) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "small")
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "small")
    with pytest.raises(ModelError, match="400 tokens, its embedding 300"):
        load(tmp_path / "small", lora)


def test_loading_prints_nothing(gpt2_folder: Path, lora: LoRASpec, capfd: pytest.CaptureFixture[str]) -> None:
    load(gpt2_folder, lora)
    assert capfd.readouterr() == ("", "")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == ("cpu", None)
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match="'cuda:x' is unknown"):
        resolve_device("cuda:x")
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models.torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("cuda") == ("cpu", "no CUDA device: training on the CPU")
    with pytest.raises(ConfigError, match="'cuda:0' does not exist.* 0 CUDA"):
        resolve_device("cuda:0")
    with pytest.raises(ConfigError, match="mps"):
        resolve_device("mps")
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(models.torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == ("cuda:0", None)
    assert resolve_device("cuda:1") == ("cuda:1", None)
    with pytest.raises(ConfigError, match="'cuda:2' does not exist.* 2 CUDA"):
        resolve_device("cuda:2")
