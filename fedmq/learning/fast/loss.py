"""Cross-entropy over a vocabulary without ever holding all its logits."""

from __future__ import annotations

from typing import Any

import torch

#: Logits in memory at once: 32 MiB of float32. A chunk of few rows would be slow: each reads all the head's weights.
_MAX_LOGITS = 1 << 23


def token_losses(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target, in nats, without a gradient.

    Args:
      hidden: (m, d), in the precision of `head`.
      head: (d, vocabulary).
      targets: int64 (m,).

    Returns:
      float32 (m,).
    """
    losses = [_chunk(rows, head, wanted)[0] for rows, wanted in _chunks(hidden, targets, head.shape[1])]
    return torch.cat(losses)


def weighted_loss(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the targets' negative log-likelihoods, with a gradient to `hidden`, and each of them.

    Logits, softmax and the gradient are computed chunk by chunk in one go, while a chunk is in the cache.

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
        gradient, losses, start = torch.empty_like(hidden), [], 0
        for rows, wanted in _chunks(hidden, targets, head.shape[1]):
            end = start + len(rows)
            loss, probabilities = _chunk(rows, head, wanted)
            probabilities[torch.arange(len(rows), device=rows.device), wanted] -= 1
            probabilities.mul_(weights[start:end, None])
            torch.mm(probabilities.to(head.dtype), head.mT, out=gradient[start:end])
            losses.append(loss)
            start = end
        ctx.save_for_backward(gradient)
        nll = torch.cat(losses)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None


def _chunks(hidden: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> Any:
    count = -(-len(targets) * vocabulary // _MAX_LOGITS)
    size = -(-len(targets) // count)
    return zip(hidden.split(size), targets.split(size), strict=True)


def _chunk(rows: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = rows @ head
    probabilities = logits.softmax(1, dtype=torch.float32)
    # log of the sum of exponentials, from the largest of both: a kernel less over the vocabulary than logsumexp.
    normaliser = logits.amax(1).float() - probabilities.amax(1).log()
    return normaliser - logits.gather(1, wanted[:, None])[:, 0].float(), probabilities
