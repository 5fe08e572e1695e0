"""GPT-2, over packed texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from fedmq.learning.fast.forward import Pass

F = torch.nn.functional


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
}


class GPT2:
    """The layers of transformers' GPT2LMHeadModel, as functions of a pass.

    Reference: Radford et al., Language Models are Unsupervised Multitask Learners (2019).
    """

    model_types = ("gpt2",)

    def __init__(self, base: transformers.PreTrainedModel) -> None:
        self._trunk, config = base.transformer, base.config
        self._heads, self._config = config.num_attention_heads, config
        self._activation = _ACTIVATIONS[config.activation_function]
        self.num_layers: int = config.num_hidden_layers

    @staticmethod
    def unsupported(config: Any) -> str | None:
        """What of this configuration the module cannot compute."""
        if config.activation_function not in _ACTIVATIONS:
            return f"activation_function {config.activation_function!r}"
        if config.add_cross_attention:
            return "add_cross_attention"
        return None

    def prepare(self, run: Pass) -> None:
        """Nothing is the same in all layers."""

    def embed(self, run: Pass) -> torch.Tensor:
        """Token and position: float32 (n, d)."""
        run.enter(-1)
        x = F.embedding(run.packed.ids, self._trunk.wte.weight) + F.embedding(
            run.packed.positions, self._trunk.wpe.weight
        )
        return run.dropped(x, self._trunk.drop.p)

    def layer(self, i: int, x: torch.Tensor, run: Pass) -> torch.Tensor:
        """Layer i: float32 (n, d) -> (n, d)."""
        run.enter(i)
        block, path = self._trunk.h[i], f"transformer.h.{i}"
        qkv = run.linear(f"{path}.attn.c_attn", _norm(x, block.ln_1))
        qkv = qkv.unflatten(1, (3 * self._heads, -1))
        mixed = run.attend(i, qkv, self._heads, self._scale(i, qkv.shape[2]), block.attn.attn_dropout.p)
        x = x + run.dropped(run.linear(f"{path}.attn.c_proj", mixed), block.attn.resid_dropout.p)
        inner = self._activation(run.linear(f"{path}.mlp.c_fc", _norm(x, block.ln_2)))
        return x + run.dropped(run.linear(f"{path}.mlp.c_proj", inner), block.mlp.dropout.p)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        """The last normalisation, before the head."""
        return _norm(x, self._trunk.ln_f)

    def _scale(self, i: int, size: int) -> float:
        scale = size**-0.5 if self._config.scale_attn_weights else 1.0
        return scale / (i + 1) if self._config.scale_attn_by_inverse_layer_idx else scale


def _norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
