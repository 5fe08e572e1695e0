"""Llama and its kin (Mistral, Qwen2), over packed texts."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from fedmq.learning.fast.forward import Pass

F = torch.nn.functional
#: Rotary frequencies that depend on the longest text at hand would tie texts together.
_ROTARY = ("default", "linear", "llama3", "yarn")


class Llama:
    """The layers of transformers' LlamaForCausalLM and of models that differ in biases only.

    Reference: Touvron et al., LLaMA (2302.13971); rotary positions from Su et al. (2104.09864).
    """

    model_types = ("llama", "mistral", "qwen2")

    def __init__(self, base: transformers.PreTrainedModel) -> None:
        self._trunk, config = base.model, base.config
        self.num_layers: int = config.num_hidden_layers
        self._size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    @staticmethod
    def unsupported(config: Any) -> str | None:
        """What of this configuration the module cannot compute."""
        if config.hidden_act != "silu":
            return f"hidden_act {config.hidden_act!r}"
        if getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None:
            return "sliding_window"
        kind = config.rope_parameters["rope_type"]
        return None if kind in _ROTARY else f"rope_type {kind!r}"

    def prepare(self, run: Pass) -> None:
        """The rotation of each row, the same in all layers."""
        like = self._trunk.embed_tokens.weight
        cosines, sines = self._trunk.rotary_emb(like, run.packed.positions[None])
        run.rotary = cosines[0], sines[0]

    def embed(self, run: Pass) -> torch.Tensor:
        """Tokens: float32 (n, d)."""
        return F.embedding(run.packed.ids, self._trunk.embed_tokens.weight)

    def layer(self, i: int, x: torch.Tensor, run: Pass) -> torch.Tensor:
        """Layer i: float32 (n, d) -> (n, d)."""
        run.enter(i)
        assert run.rotary is not None
        block, path = self._trunk.layers[i], f"model.layers.{i}"
        h = _norm(x, block.input_layernorm)
        q, k, v = (run.linear(f"{path}.self_attn.{p}_proj", h).unflatten(1, (-1, self._size)) for p in "qkv")
        turned = (part.to(v.dtype) for part in apply_rotary_pos_emb(q, k, *run.rotary))
        qkv = torch.cat([*turned, v], 1)
        mixed = run.attend(i, qkv, q.shape[1], self._size**-0.5, block.self_attn.attention_dropout)
        x = x + run.linear(f"{path}.self_attn.o_proj", mixed)
        h = _norm(x, block.post_attention_layernorm)
        gated = F.silu(run.linear(f"{path}.mlp.gate_proj", h)) * run.linear(f"{path}.mlp.up_proj", h)
        return x + run.linear(f"{path}.mlp.down_proj", gated)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        """The last normalisation, before the head."""
        return _norm(x, self._trunk.norm)


def _norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
