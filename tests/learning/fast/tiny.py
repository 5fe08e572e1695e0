"""Tiny bases with nothing at its default value, their gradients under both engines, and how far vectors are apart."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers

from fedmq.learning.batching import collate, token_nll
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer
from fedmq.recipe import LoRASpec
from fedmq.tensors import NamedTensors

VOCAB, POSITIONS = 400, 64
_COMMON = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.15}
_GPT2 = _COMMON | {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
_LLAMA = _COMMON | {
    "max_position_embeddings": POSITIONS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
CONFIGS: dict[str, tuple[type[transformers.PretrainedConfig], dict[str, Any]]] = {
    "gpt2": (transformers.GPT2Config, _GPT2),
    "gpt2, scale by layer": (transformers.GPT2Config, _GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2, no scale, relu": (
        transformers.GPT2Config,
        _GPT2 | {"scale_attn_weights": False, "activation_function": "relu"},
    ),
    "gpt2, own head, gelu": (
        transformers.GPT2Config,
        _GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "llama": (transformers.LlamaConfig, _LLAMA),
    "llama, biases, llama3 rotary": (
        transformers.LlamaConfig,
        _LLAMA
        | {"attention_bias": True, "mlp_bias": True, "head_dim": 16}
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral": (transformers.MistralConfig, _LLAMA | {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, _LLAMA | {"tie_word_embeddings": True}),
}
#: Attention, what follows it, and the MLP: every kind of linear layer once.
TARGETS = {"gpt2": ("c_attn", "c_proj", "c_fc"), "llama": ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")}


def base(kind: str, *, dropout: float = 0.0, **changed: Any) -> transformers.PreTrainedModel:
    """A random model whose biases and norms do something, so that none can be forgotten."""
    config_class, values = CONFIGS[kind]
    drop = ("embd_pdrop", "attn_pdrop", "resid_pdrop") if kind.startswith("gpt2") else ("attention_dropout",)
    torch.manual_seed(0)
    config = config_class(**values | dict.fromkeys(drop, dropout) | changed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def spec(kind: str, **changed: Any) -> LoRASpec:
    """LoRA without dropout in every kind of layer."""
    targets = TARGETS["gpt2" if kind.startswith("gpt2") else "llama"]
    plain = LoRASpec(
        r=4,
        lora_alpha=8,
        target_modules=targets,
        lora_dropout=0.0,
        layers_to_transform=None,
        bias="none",
        task_type="CAUSAL_LM",
        core=False,
    )
    return replace(plain, **changed)


def load(
    model: transformers.PreTrainedModel,
    tokenizer: Tokenizer,
    lora: LoRASpec,
    engine: str,
    precision: str = "fp32",
    device: str = "cpu",
) -> LanguageModel:
    """The model under an engine, with an adapter whose B is not zero; `model` stays as it is."""
    lm = LanguageModel(
        "tiny",
        copy.deepcopy(model),
        tokenizer,
        lora,
        max_length=POSITIONS,
        seed=1,
        device=device,
        engine=engine,
        precision=precision,
    )
    lm.set_adapter(moving(lm.initial_adapter()))
    return lm


def moving(adapter: NamedTensors) -> dict[str, np.ndarray]:
    """An adapter of that shape with values of about 0.1 everywhere."""
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.1, value.shape).astype(np.float32) for name, value in adapter.items()}


def random_texts(count: int, *, longest: int = 40, seed: int = 5, vocab: int = VOCAB) -> list[np.ndarray]:
    """Texts of 2 to `longest` tokens, EOS last."""
    rng = np.random.default_rng(seed)
    sizes = [2, longest, *rng.integers(2, longest + 1, max(0, count - 2))][:count]
    return [np.append(rng.integers(1, vocab, size - 1), 0) for size in sizes]


def flat(tensors: NamedTensors) -> np.ndarray:
    """All values in one float64 vector, by name."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)]).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def hf_gradient(lm: LanguageModel, texts: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """Mean loss over the targets and its gradient to the adapter, by the library's model and autograd, padded."""
    batch = {name: value.to(lm.device) for name, value in collate(texts).items()}
    labels = batch.pop("labels")
    lm.model.zero_grad(set_to_none=True)
    loss = token_nll(lm.model(**batch, use_cache=False).logits, labels).sum() / sum(len(text) - 1 for text in texts)
    loss.backward()
    named = {name: p for name, p in lm.model.named_parameters() if p.requires_grad}
    gradient = flat({name.replace(".default", ""): p.grad.cpu().numpy() for name, p in named.items()})
    lm.model.zero_grad(set_to_none=True)
    return float(loss.detach()), gradient


def fast_gradient(
    lm: LanguageModel, texts: Sequence[np.ndarray], *, seed: int | None = None, step: int = 0, **options: Any
) -> tuple[float, np.ndarray]:
    """The same by engine "fast"; with dropout where a seed is given. `options` go to `PackedModel.hidden`."""
    assert lm.packed is not None
    adapters = lm.packed.adapters([lm.get_adapter()])
    packed = lm.packed.pack([texts])
    dropout = None if seed is None else Dropout([seed], step, packed)
    weights = torch.full((len(packed.targets),), 1 / len(packed.targets), device=lm.device)
    total, _ = lm.packed.loss(packed, lm.packed.hidden(packed, adapters, dropout=dropout, **options), weights)
    total.backward()
    return float(total.detach()), adapters.grad[0].cpu().numpy().astype(np.float64)
