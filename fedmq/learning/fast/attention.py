"""Causal attention within each of the packed texts."""

from __future__ import annotations

from typing import Any

import torch

from fedmq.learning.fast.slots import Slots

#: From this length on the library's fused kernel takes over, which keeps no length x length weights for the way back.
#: On a CPU it is then as fast in float32 and a quarter to a half slower in bfloat16; below, up to 5 times slower.
_FUSED_FROM = 192


def attend(qkv: torch.Tensor, slots: Slots, scale: float, factors: list[torch.Tensor] | None = None) -> torch.Tensor:
    """softmax(scale q k^T) v, where a token sees its own text up to itself.

    Args:
      qkv: (n, heads + 2 key heads, size), any float dtype: the queries of each row, its keys, its values.
      slots: of the n rows.
      scale: of the products.
      factors: of dropout, for each bucket as `Dropout.attention` gives them.

    Returns:
      (n, heads * size), dtype of qkv. The softmax is float32.
    """
    masks = [None] * len(slots.shapes) if factors is None else factors
    result: torch.Tensor = _Attention.apply(qkv, slots, scale, *masks)
    return result


class _Attention(torch.autograd.Function):
    """One function for all of it: each row is taken once and given back once, so no gradient is ever added up."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, slots: Slots, scale: float, *masks: torch.Tensor | None) -> torch.Tensor:
        taken = qkv.flatten(0, 1).index_select(0, slots.take)
        mixed = taken.new_empty(len(slots.give), taken.shape[1])
        saved = []
        for (q, k, v), out, mask in zip(slots.parts(taken), slots.outputs(mixed), masks, strict=True):
            weights = None
            if mask is None and (q.is_cuda or k.shape[1] >= _FUSED_FROM):
                out.copy_(_fused(q, k, v, scale))
            else:
                weights = _weights(q, k, scale)
                torch.bmm(_masked(weights, mask).to(v.dtype), v, out=out)
            saved.append(weights)
        ctx.save_for_backward(taken, *saved, *masks)
        ctx.slots, ctx.scale, ctx.shape = slots, scale, qkv.shape
        return mixed.index_select(0, slots.given).view(len(qkv), -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        slots, scale = ctx.slots, ctx.scale
        taken, *rest = ctx.saved_tensors
        saved, masks = rest[: len(slots.shapes)], rest[len(slots.shapes) :]
        dmixed = grads[0].reshape(-1, taken.shape[1]).index_select(0, slots.give).masked_fill_(slots.padding, 0)
        dtaken = torch.empty_like(taken)
        buckets = zip(slots.parts(taken), slots.parts(dtaken), slots.outputs(dmixed), saved, masks, strict=True)
        for (q, k, v), into, dout, weights, mask in buckets:
            if weights is None:
                with torch.enable_grad():
                    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
                    again = _fused(q, k, v, scale)
                for gradient, found in zip(into, torch.autograd.grad(again, (q, k, v), dout), strict=True):
                    gradient.copy_(found)
                continue
            dq, dk, dv = into
            torch.bmm(_masked(weights, mask).to(v.dtype).mT, dout, out=dv)
            dweights = _masked((dout @ v.mT).float(), mask)
            # Of softmax: w * (dw - the sum of w * dw).
            dweights.sub_((dweights * weights).sum(-1, keepdim=True)).mul_(weights).mul_(scale)
            dscores = dweights.to(q.dtype)
            torch.bmm(dscores, k, out=dq)
            torch.bmm(dscores.mT, q, out=dk)
        return dtaken.index_select(0, slots.taken).view(ctx.shape), None, None, *(None for _ in masks)


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """The library's attention, shaped as q."""
    length = k.shape[1]
    q = q.unflatten(1, (-1, length))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        q, k[:, None], v[:, None], is_causal=True, scale=scale, enable_gqa=q.shape[1] > 1
    )
    return mixed.flatten(1, 2)


def _weights(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale q k^T), float32 (.., queries, l)."""
    length = k.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1)
    # Texts stand at the left of their slots: what no real token may see is always later than it.
    scores = (q @ k.mT).float().mul_(scale).unflatten(1, (-1, length)).masked_fill_(later, float("-inf"))
    return scores.softmax(-1).flatten(1, 2)


def _masked(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else weights * mask.view_as(weights)
