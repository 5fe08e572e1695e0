"""One pass over packed texts: what the architectures are written in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedmq.learning.fast.adapters import Adapters, lora_linear
from fedmq.learning.fast.attention import attend
from fedmq.learning.fast.card_dropout import CardDropout
from fedmq.learning.fast.dropout import Dropout
from fedmq.learning.fast.frozen import Frozen
from fedmq.learning.fast.packed import Packed
from fedmq.learning.fast.places import Places
from fedmq.learning.fast.slots import Slots, slots


class Past:
    """Keys and values of the tokens of one text that were read before, layer by layer."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens read."""
        return len(self._seen[0][0]) if self._seen else 0

    def attend(self, layer: int, qkv: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
        """As `attention.attend`, for new tokens of the text on all of it; they are kept."""
        q, kv = qkv[:, :heads], qkv[:, heads:]
        k, v = kv.chunk(2, 1)
        if layer in self._seen:
            k, v = (torch.cat(pair) for pair in zip(self._seen[layer], (k, v), strict=True))
        self._seen[layer] = k, v
        visible = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q, k, v)),
            attn_mask=visible,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return mixed[0].transpose(0, 1).flatten(1)


@dataclass
class Pass:
    """Frozen weights and what goes through them; the residual stream is float32, products have the weights' dtype.

    Attributes:
      frozen: of the base.
      packed: the texts.
      adapters: of the texts' clients; None runs the bare base.
      dropout: None in evaluation and in frozen layers; a `CardDropout` where there are `places`.
      lora_dropout: probability.
      past: in generation; then the pass is over one text.
      rotary: cosines and sines of the rows' positions, where the architecture wants them.
      slots: of the texts' heads, the same in all layers.
      places: of the rows, on a card, in place of slots.
    """

    frozen: Frozen
    packed: Packed
    adapters: Adapters | None = None
    dropout: Dropout | CardDropout | None = None
    lora_dropout: float = 0.0
    past: Past | None = None
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    slots: Slots | None = None
    places: Places | None = None

    def enter(self, layer: int) -> None:
        """Begin a layer; -1 is the embedding."""
        if self.dropout is not None:
            self.dropout.enter(layer)

    def linear(self, path: str, x: torch.Tensor) -> torch.Tensor:
        """The linear layer at `path`, with its adapters if it has any: (n, in) -> (n, out)."""
        weight, bias = self.frozen.linear[path]
        x = x.to(weight.dtype)
        ab = self.adapters.modules.get(path) if self.adapters is not None else None
        if ab is None or self.adapters is None:
            return x @ weight if bias is None else torch.addmm(bias, x, weight)
        p = self.lora_dropout
        factors = self.dropout.rows(x, p) if self.dropout is not None and p > 0 else None
        return lora_linear(x, weight, bias, ab, self.adapters.scale, self.packed.bounds, factors)

    def dropped(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """Dropout of rows (n, width)."""
        return x if self.dropout is None or p == 0 else x * self.dropout.rows(x, p)

    def attend(self, layer: int, qkv: torch.Tensor, heads: int, scale: float, p: float) -> torch.Tensor:
        """Attention of each text on itself: (n, heads + 2 key heads, size) -> (n, heads * size)."""
        if self.past is not None:
            return self.past.attend(layer, qkv, heads, scale)
        drops = self.dropout if p > 0 else None
        if self.places is not None:
            assert not isinstance(drops, Dropout)
            shape = self.places.texts, heads, self.places.longest
            return self.places.attend(qkv, heads, scale, None if drops is None else drops.attention(shape, p))
        assert not isinstance(drops, CardDropout)
        if self.slots is None:
            self.slots = slots(self.packed, heads, (qkv.shape[1] - heads) // 2)
        return attend(qkv, self.slots, scale, None if drops is None else drops.attention(heads, p, qkv.device))
