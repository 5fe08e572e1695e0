"""The loss in chunks is torch's cross-entropy, and no chunk holds all logits."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedmq.learning.fast import loss as module
from fedmq.learning.fast.loss import token_losses, weighted_loss
from fedmq.learning.tokenizer import Tokenizer

TOKENS, WIDTH, VOCAB = 70, 8, 1000


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator)
    head = torch.randn(WIDTH, VOCAB, generator=generator) * 3
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    return hidden, head, targets, torch.rand(TOKENS, generator=generator)


@pytest.mark.parametrize("max_logits", [1 << 24, 7 * VOCAB, VOCAB + 1, 1])
@pytest.mark.parametrize("block", [1 << 20, 3 * VOCAB, 1])
def test_equals_cross_entropy_in_value_and_gradient(
    max_logits: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", max_logits * 4)
    monkeypatch.setattr(module, "_BLOCK", block)
    hidden, head, targets, weights = problem()
    # Against float64: how float32 products are rounded differs from one processor to another.
    ours, plain = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    close = functools.partial(torch.testing.assert_close, atol=5e-5, rtol=5e-5, check_dtype=False)
    total, each = weighted_loss(ours, head, targets, weights)
    expected = torch.nn.functional.cross_entropy(plain @ head.double(), targets, reduction="none")
    close(each, expected.detach())
    close(total, (expected * weights).sum())
    close(token_losses(hidden, head, targets), expected.detach())
    (3 * total).backward()
    (3 * (expected * weights).sum()).backward()
    close(ours.grad, plain.grad)
    assert not each.requires_grad


def test_logits_far_beyond_the_range_of_exp() -> None:
    hidden, head, targets, weights = problem()
    expected = torch.nn.functional.cross_entropy(100 * hidden @ head, targets, reduction="none")
    assert expected.max() > 1000
    torch.testing.assert_close(token_losses(100 * hidden, head, targets), expected, rtol=1e-5, atol=1e-4)
    assert torch.isfinite(weighted_loss(100 * hidden, head, targets, weights)[0])


def test_bfloat16() -> None:
    hidden, head, targets, weights = problem()
    hidden, head = hidden.bfloat16(), head.bfloat16()
    ours, plain = hidden.clone().requires_grad_(), hidden.float().requires_grad_()
    total, each = weighted_loss(ours, head, targets, weights)
    expected = torch.nn.functional.cross_entropy(plain @ head.float(), targets, reduction="none")
    assert total.dtype == each.dtype == torch.float32
    torch.testing.assert_close(total, (expected * weights).sum(), rtol=1e-2, atol=0)
    total.backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None and plain.grad is not None
    assert torch.nn.functional.cosine_similarity(ours.grad.float().ravel(), plain.grad.ravel(), 0) > 0.999


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def test_never_holds_the_logits_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 8 * VOCAB)
    hidden, head, targets, weights = problem()
    with _Largest() as largest:
        total, _ = weighted_loss(hidden.requires_grad_(), head, targets, weights)
        total.backward()
        token_losses(hidden, head, targets)
    assert VOCAB < largest.numel <= 8 * VOCAB


def test_a_training_step_never_does(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.base("gpt2", vocab_size=5000)
    lm = tiny.load(model, tokenizer, tiny.spec("gpt2"), "fast")
    texts = tiny.random_texts(20, longest=20, vocab=5000)
    whole = tiny.fast_gradient(lm, texts)
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 20 * 5000)
    with _Largest() as largest:
        loss, gradient = tiny.fast_gradient(lm, texts)
    tokens = sum(map(len, texts))
    assert largest.numel <= 32 * 5000 < tokens * 5000 / 5, "more than the embedding of 32 values for each token"
    assert loss == pytest.approx(whole[0], rel=1e-6) and tiny.distance(gradient, whole[1]) < 1e-5
