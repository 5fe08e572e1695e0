"""The packed model: gradient checkpointing, the engine's choice, what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import transformers

from fedmq.errors import ConfigError, ModelError
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import train
from fedmq.recipe import LoRASpec, TrainingRecipe

TEXTS = tiny.random_texts(6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_checkpointing_computes_layers_again_and_the_same(
    kind: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.base(kind, dropout=0.2)
    lm = tiny.load(model, tokenizer, tiny.spec(kind, lora_dropout=0.2), "fast")
    entered: Counter[int] = Counter()
    enter = Dropout.enter

    def counted(self: Dropout, layer: int) -> None:
        entered[layer] += 1
        enter(self, layer)

    monkeypatch.setattr(Dropout, "enter", counted)
    loss, gradient = tiny.fast_gradient(lm, TEXTS, seed=3)
    assert entered[0] == entered[1] == 1
    again_loss, again = tiny.fast_gradient(lm, TEXTS, seed=3, checkpointing=True)
    assert entered[0] == entered[1] == 3, "once, and twice with checkpointing"
    assert loss == again_loss != tiny.fast_gradient(lm, TEXTS)[0]
    assert np.array_equal(gradient, again)
    assert not np.array_equal(gradient, tiny.fast_gradient(lm, TEXTS, seed=4)[1])


def test_checkpointing_keeps_less(tokenizer: Tokenizer) -> None:
    lm = tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2"), "fast")
    assert lm.packed is not None
    adapters, packed = lm.packed.adapters([lm.get_adapter()]), lm.packed.pack([TEXTS])
    kept = {}
    for checkpointing in (False, True):
        sizes: dict[int, int] = {}

        def note(value: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            hidden = lm.packed.hidden(packed, adapters, checkpointing=checkpointing)
        weights = {t.data_ptr() for pair in lm.packed.frozen.linear.values() for t in pair if t is not None}
        kept[checkpointing] = sum(nbytes for pointer, nbytes in sizes.items() if pointer not in weights)
        del hidden
    assert kept[True] < kept[False] / 4


@pytest.mark.parametrize("engine", ["hf", "fast"])
def test_checkpointing_is_the_same_training(engine: str, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    model = tiny.base("gpt2", dropout=0.1)
    lm = tiny.load(model, tokenizer, tiny.spec("gpt2", lora_dropout=0.1), engine)
    start, adapters = lm.get_adapter(), []
    for checkpointing in (False, True):
        lm.set_adapter(start)
        train(lm, TEXTS, replace(recipe, gradient_checkpointing=checkpointing), seed=7)
        adapters.append(tiny.flat(lm.get_adapter()))
    assert np.array_equal(*adapters)


def _load(config: transformers.PretrainedConfig, tokenizer: Tokenizer, lora: LoRASpec, **changed: str) -> LanguageModel:
    options = {"engine": "auto", "precision": "fp32", "device": "cpu"} | changed
    base = transformers.AutoModelForCausalLM.from_config(config)
    return LanguageModel("some/base", base, tokenizer, lora, max_length=32, seed=1, **options)  # type: ignore[arg-type]


_SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_UNKNOWN = {
    "opt": (transformers.OPTConfig(**_SMALL, ffn_dim=64, word_embed_proj_dim=32), ("q_proj", "v_proj"), "a opt"),
    "neox": (transformers.GPTNeoXConfig(**_SMALL, intermediate_size=64), ("query_key_value",), "a gpt_neox"),
    "activation": (
        transformers.GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, activation_function="silu"),
        ("c_attn",),
        "activation_function 'silu'",
    ),
    "window": (
        transformers.MistralConfig(**_SMALL, num_key_value_heads=2, intermediate_size=64, sliding_window=8),
        ("q_proj",),
        "sliding_window",
    ),
    "rotary": (
        transformers.LlamaConfig(
            **_SMALL,
            intermediate_size=64,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        ),
        ("q_proj",),
        "rope_type 'dynamic'",
    ),
}


@pytest.mark.parametrize("case", _UNKNOWN)
def test_a_model_that_it_does_not_know(case: str, tokenizer: Tokenizer, recipe: TrainingRecipe) -> None:
    config, targets, reason = _UNKNOWN[case]
    lora = tiny.spec("gpt2", target_modules=targets)
    lm = _load(config, tokenizer, lora)
    assert lm.packed is None
    assert lm.engine_note.startswith("engine hf, as fast cannot: ") and reason in lm.engine_note
    with pytest.raises(ConfigError, match="training.engine \"fast\" cannot train base model 'some/base'") as caught:
        _load(config, tokenizer, lora, engine="fast")
    assert reason in str(caught.value) and 'training.engine to "auto" or "hf"' in str(caught.value)
    assert "\n" not in str(caught.value)
    result = train(lm, TEXTS, replace(recipe, num_epochs=1), seed=1)
    assert np.isfinite(result.train_loss), "engine hf trains it"


def test_adapters_and_precisions_that_it_does_not_do(tokenizer: Tokenizer) -> None:
    tied, own_head = (tiny.base(kind).config for kind in ("gpt2", "gpt2, own head, gelu"))
    lora = tiny.spec("gpt2")
    for config, spec, precision, reason in (
        (tied, replace(lora, bias="all"), "fp32", "trains no biases, lora.bias is 'all'"),
        (tied, lora, "fp16", "computes in float32 or bfloat16, the precision is fp16"),
        (own_head, replace(lora, target_modules=("c_attn", "lm_head")), "fp32", "adapts layers only, not lm_head"),
    ):
        lm = _load(config, tokenizer, spec, precision=precision)
        assert lm.packed is None and reason in lm.engine_note
        with pytest.raises(ConfigError, match=reason):
            _load(config, tokenizer, spec, precision=precision, engine="fast")


def test_the_note_says_what_was_chosen(tokenizer: Tokenizer) -> None:
    config, lora = tiny.base("gpt2").config, tiny.spec("gpt2")
    assert _load(config, tokenizer, lora).engine_note == "engine fast, fp32 weights"
    assert _load(config, tokenizer, lora, precision="bf16").engine_note == "engine fast, bf16 weights"
    assert _load(config, tokenizer, lora, precision="auto").engine_note in (
        "engine fast, fp32 weights",
        "engine fast, bf16 weights",
    )
    assert _load(config, tokenizer, lora, engine="hf").engine_note == "engine hf"


@pytest.mark.parametrize("engine", ["auto", "hf"])
def test_layers_that_the_base_has_not(engine: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="lora.layers_to_transform: .*has layers 0 to 1, none 2"):
        _load(tiny.base("gpt2").config, tokenizer, tiny.spec("gpt2", layers_to_transform=(1, 2)), engine=engine)
