"""A base model as engine "fast" computes it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch.utils.checkpoint import checkpoint

from fedmq.learning.fast.adapters import Adapters
from fedmq.learning.fast.card_dropout import CardDropout
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.fast.forward import Pass, Past
from fedmq.learning.fast.frozen import frozen_weights
from fedmq.learning.fast.gpt2 import GPT2
from fedmq.learning.fast.llama import Llama
from fedmq.learning.fast.loss import token_losses, weighted_loss
from fedmq.learning.fast.packed import Packed, pack
from fedmq.learning.fast.places import Places
from fedmq.recipe import LoRASpec
from fedmq.tensors import NamedTensors

_ARCHITECTURES = (GPT2, Llama)


def unsupported(base: transformers.PreTrainedModel, lora: LoRASpec, targets: Sequence[str]) -> str | None:
    """Why engine "fast" cannot train this adapter on this base, in words; None where it can.

    Args:
      base: from the library.
      lora: the adapter.
      targets: paths of the modules that get an adapter.
    """
    config = base.config
    known = {name: one for one in _ARCHITECTURES for name in one.model_types}
    if config.model_type not in known:
        return f"it knows {', '.join(sorted(known))}, this model is a {config.model_type}"
    if (what := known[config.model_type].unsupported(config)) is not None:
        return f"it does not know this model's {what}"
    if lora.bias != "none":
        return f"it trains no biases, lora.bias is {lora.bias!r}"
    outside = [path for path in targets if re.search(r"\.\d+\.", path) is None]
    return f"it adapts layers only, not {outside[0]}" if outside else None


class PackedModel:
    """Frozen weights in one precision and the architecture's forward pass.

    Args:
      base: on its device; its modules may be wrapped by peft's.
      lora: the adapter.
      adapter: one, for the names of its tensors.
      dtype: of the frozen weights, float32 or bfloat16.
      digest: SHA-256 in hex of the base.

    Attributes:
      first_adapted: number of the lowest layer that has an adapter; those below are frozen.
      width: d, values in a row of the residual stream.
    """

    def __init__(
        self,
        base: transformers.PreTrainedModel,
        lora: LoRASpec,
        adapter: NamedTensors,
        dtype: torch.dtype,
        digest: str,
    ) -> None:
        (kind,) = (one for one in _ARCHITECTURES if base.config.model_type in one.model_types)
        self._layers = kind(base)
        self.device = str(base.device)
        self.dtype, self.digest = dtype, digest
        self.frozen = frozen_weights(base, dtype, digest)
        self._lora = lora
        numbers = [re.search(r"\.(\d+)\.", name) for name in adapter]
        self.first_adapted = min(int(match[1]) for match in numbers if match)
        self.width: int = base.config.hidden_size

    def adapters(self, adapters: Sequence[NamedTensors]) -> Adapters:
        """Adapters of this model, to be computed with side by side."""
        return Adapters(adapters, self._lora.lora_alpha / self._lora.r, self.device)

    def pack(self, clients: Sequence[Sequence[np.ndarray]], first_position: int = 0) -> Packed:
        """Texts on this model's device; see `packed.pack`."""
        return pack(clients, self.device, first_position)

    def trunk(self, packed: Packed, places: Places | None = None) -> torch.Tensor:
        """What goes into the lowest adapted layer, without dropout: float32 (n, d); `places` as of `hidden`."""
        run = Pass(self.frozen, packed, places=places)
        self._layers.prepare(run)
        x = self._layers.embed(run)
        for i in range(self.first_adapted):
            x = self._layers.layer(i, x, run)
        return x

    def hidden(
        self,
        packed: Packed,
        adapters: Adapters,
        *,
        trunk: torch.Tensor | None = None,
        dropout: Dropout | CardDropout | None = None,
        past: Past | None = None,
        places: Places | None = None,
        checkpointing: bool = False,
    ) -> torch.Tensor:
        """The last layer's output: float32 (n, d).

        Args:
          packed: texts of as many clients as there are adapters.
          adapters: from `adapters`.
          trunk: what `trunk` gave for these texts; None computes from the tokens.
          dropout: None is evaluation.
          past: of generation.
          places: of the rows, where `packed` is a grid's.
          checkpointing: keep no activations inside layers, compute them again in the backward pass.
        """
        run = Pass(self.frozen, packed, adapters, dropout, self._lora.lora_dropout, past, places=places)
        self._layers.prepare(run)
        x = self._layers.embed(run) if trunk is None else trunk
        for i in range(0 if trunk is None else self.first_adapted, self._layers.num_layers):
            if checkpointing:
                x = checkpoint(self._layers.layer, i, x, run, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._layers.layer(i, x, run)
        return x

    def losses(self, packed: Packed, hidden: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target, in nats: float32 (m,), without a gradient."""
        return token_losses(self._before_head(packed, hidden), self.frozen.head, packed.targets)

    def loss(self, packed: Packed, hidden: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum of the targets' losses, to go back from, and each of them; see `loss.weighted_loss`."""
        return weighted_loss(self._before_head(packed, hidden), self.frozen.head, packed.targets, weights)

    def next_token_logits(self, packed: Packed, hidden: torch.Tensor) -> torch.Tensor:
        """Logits after the last token of each text, but for a constant: float32 (t, vocabulary)."""
        last = torch.tensor(packed.lengths).cumsum(0).to(hidden.device) - 1
        return (self._layers.final(hidden[last]).to(self.dtype) @ self.frozen.head).float()

    def _before_head(self, packed: Packed, hidden: torch.Tensor) -> torch.Tensor:
        return self._layers.final(hidden.index_select(0, packed.rows)).to(self.dtype)
