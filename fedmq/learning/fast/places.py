"""Attention within texts of which each has as many places, in as few kernels as a card wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Places:
    """Where rows stand in (texts, longest) places.

    Attributes:
      texts, longest: how many.
      take: int64 (texts * longest,): the row of each place; of a place without a token, another row of the client.
      place: int64 (n,): the place of each row; of a row without a text, a place without a token.
      empty: int64 (texts * longest, 1): 1 for a place without a token.
    """

    texts: int
    longest: int
    take: torch.Tensor
    place: torch.Tensor
    empty: torch.Tensor

    def attend(self, qkv: torch.Tensor, heads: int, scale: float, factors: torch.Tensor | None = None) -> torch.Tensor:
        """softmax(scale q k^T) v, where a token sees its own text up to itself.

        Args:
          qkv: (n, heads + 2 key heads, size), any float dtype: the queries of each row, its keys, its values.
          heads: of queries.
          scale: of the products.
          factors: of dropout, float32 (texts, heads, longest, longest).

        Returns:
          (n, heads * size), dtype of qkv.
        """
        key_heads = (qkv.shape[1] - heads) // 2
        taken = _moved(qkv.flatten(1), self.take, self.place, None)
        split = taken.view(self.texts, self.longest, *qkv.shape[1:]).transpose(1, 2)
        q, k, v = split.split([heads, key_heads, key_heads], 1)
        if factors is None:
            mixed = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=key_heads < heads
            )
        else:
            k, v = (x.repeat_interleave(heads // key_heads, 1) for x in (k, v))
            later = torch.ones(self.longest, self.longest, dtype=torch.bool, device=qkv.device).triu_(1)
            scores = (q @ k.mT).float().mul(scale).masked_fill(later, float("-inf"))
            mixed = (scores.softmax(-1) * factors).to(v.dtype) @ v
        return _moved(mixed.transpose(1, 2).flatten(2).flatten(0, 1), self.place, self.take, self.empty)


def _moved(x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, empty: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = _Moved.apply(x, index, back, empty)
    return result


class _Moved(torch.autograd.Function):
    """Rows from one order to another, and their gradients back, without adding any up.

    To rows that stand more than once goes one gradient: all others are 0. Nothing is learnt from a row without a text,
    and no token sees a place that is later than it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, empty: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(back, empty)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        back, empty = ctx.saved_tensors
        moved = grads[0].index_select(0, back)
        return moved if empty is None else moved.masked_fill_(empty.bool(), 0), None, None, None
