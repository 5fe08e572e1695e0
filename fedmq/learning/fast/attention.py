"""Causal attention within each of the packed texts."""

from __future__ import annotations

from typing import Any

import torch

from fedmq.learning.fast.packed import Packed

#: From this length on the library's fused kernel takes over, which keeps no length x length weights for the way back.
#: On a CPU it is then as fast in float32 and a quarter to a half slower in bfloat16; below, up to 5 times slower.
_FUSED_FROM = 192


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    scale: float,
    factors: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v, where a token sees its own text up to itself.

    Args:
      q: (n, heads, size), any float dtype.
      k, v: (n, key heads, size); a key head serves heads / key heads heads.
      packed: the n rows.
      scale: of the products.
      factors: of dropout, for each bucket as `Dropout.attention` gives them.

    Returns:
      (n, heads * size), dtype of q. The softmax is float32.
    """
    outputs = []
    widths = [len(bucket) * packed.lengths[bucket[0]] for bucket in packed.buckets]
    parts = (_spread(x, packed).split(widths) for x in (q, k, v))
    for number, (bucket, qs, ks, vs) in enumerate(zip(packed.buckets, *parts, strict=True)):
        longest = packed.lengths[bucket[0]]
        qs, ks, vs = (x.unflatten(0, (-1, longest)).transpose(1, 2) for x in (qs, ks, vs))
        if factors is None and (q.is_cuda or longest >= _FUSED_FROM):
            mixed = torch.nn.functional.scaled_dot_product_attention(
                qs, ks, vs, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            mixed = _plain(qs, ks, vs, scale, None if factors is None else factors[number])
        outputs.append(mixed.transpose(1, 2).flatten(0, 1))
    return _Take.apply(torch.cat(outputs), packed.gather, packed.spread, packed.padding).flatten(1)  # type: ignore[no-any-return]


def _plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, factors: torch.Tensor | None
) -> torch.Tensor:
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    # Texts stand at the left of their slots: what no real token may see is always later than it.
    scores = (q @ k.mT).float().mul_(scale).masked_fill_(later, float("-inf"))
    weights = scores.softmax(-1)
    return (weights if factors is None else weights * factors).to(v.dtype) @ v


def _spread(x: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Rows to slots."""
    return _Take.apply(x, packed.spread, packed.gather, None)  # type: ignore[no-any-return]


class _Take(torch.autograd.Function):
    """x[index], where each row of x that counts is taken once: so the gradient is taken back, not added up."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, padding: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(inverse, padding)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inverse, padding = ctx.saved_tensors
        dx = grads[0].index_select(0, inverse)
        if padding is not None:
            dx.masked_fill_(padding.view(-1, *[1] * (dx.dim() - 1)), 0)
        return dx, None, None, None
