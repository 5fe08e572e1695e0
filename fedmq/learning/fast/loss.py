"""Cross-entropy over a vocabulary without ever holding all its logits."""

from __future__ import annotations

from typing import Any

import torch

#: Of logits in memory at once. A chunk of few rows would be slow: each reads all the head's weights.
_MAX_BYTES = 1 << 25
_MAX_BYTES_ON_CARD = 1 << 28
_ALIGNED = 64
#: Logits in hand at once on a CPU: 4 MiB of float32, which stay in the cache from the softmax to the gradient.
_BLOCK = 1 << 20


def token_losses(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target, in nats, without a gradient.

    Args:
      hidden: (m, d), in the precision of `head`.
      head: (d, vocabulary).
      targets: int64 (m,).

    Returns:
      float32 (m,).
    """
    chunks = _chunks(hidden, targets, head)
    return torch.cat([_losses(_logits(rows, head), wanted, into_gradients=False) for rows, wanted in chunks])


def weighted_loss(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the targets' negative log-likelihoods, with a gradient to `hidden`, and each of them.

    Logits and their gradient are computed in one go, chunk by chunk and in one place.

    Args:
      hidden: (m, d), in the precision of `head`.
      head: frozen, (d, vocabulary).
      targets: int64 (m,).
      weights: float32 (m,): 1 / targets of the step, for a mean.

    Returns:
      The sum, float32 (), and the losses, float32 (m,), without a gradient.

    Reference: as in Liger Kernel (2410.10989) and Cut Cross-Entropy (2411.09009).
    """
    total, losses = _WeightedLoss.apply(hidden, head, targets, weights)
    return total, losses


class _WeightedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses, gradients = [], []
        for rows, wanted in _chunks(hidden, targets, head):
            logits = _logits(rows, head)
            losses.append(_losses(logits, wanted, into_gradients=True))
            gradients.append(logits @ head.mT)
        nll = torch.cat(losses)
        ctx.save_for_backward(torch.cat(gradients), weights)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        gradients, weights = ctx.saved_tensors
        return (gradients * (weights * grads[0])[:, None]).to(gradients.dtype), None, None, None


def _chunks(hidden: torch.Tensor, targets: torch.Tensor, head: torch.Tensor) -> Any:
    most = _MAX_BYTES_ON_CARD if head.is_cuda else _MAX_BYTES
    count = -(-len(targets) * head.shape[1] * head.itemsize // most)
    size = -(-len(targets) // count)
    return zip(hidden.split(size), targets.split(size), strict=True)


def _logits(rows: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """rows head, (m, vocabulary)."""
    if not rows.is_cuda:
        return rows @ head
    # A card's fast kernels want rows that begin at multiples of 16 bytes.
    width = -(-head.shape[1] // _ALIGNED) * _ALIGNED
    logits = rows.new_empty(len(rows), width)[:, : head.shape[1]]
    return torch.mm(rows, head, out=logits)


def _losses(logits: torch.Tensor, targets: torch.Tensor, into_gradients: bool) -> torch.Tensor:
    """The targets' losses, float32 (m,); the logits (m, vocabulary) may become the losses' gradients to them."""
    size = len(logits) if logits.is_cuda else max(1, _BLOCK // logits.shape[1])
    losses = []
    for block, wanted in zip(logits.split(size), targets.split(size), strict=True):
        probabilities = block.softmax(1, dtype=torch.float32)
        # log of the sum of exponentials, from the largest of both: a kernel less over the vocabulary than logsumexp.
        normaliser = block.amax(1).float() - probabilities.amax(1).log()
        losses.append(normaliser - block.gather(1, wanted[:, None])[:, 0].float())
        if into_gradients:
            probabilities[torch.arange(len(block), device=block.device), wanted] -= 1
            block.copy_(probabilities)
    return torch.cat(losses)
