"""Attention of packed texts: that of each text by itself, whatever lies beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmq.learning.fast import attention
from fedmq.learning.fast.packed import Packed, pack
from fedmq.learning.fast.slots import slots

LENGTHS = (5, 12, 1, 7, 11, 3, 30)


@pytest.fixture(params=[2, 10_000], ids=["fused", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FUSED_FROM", request.param)


def packed_texts() -> Packed:
    return pack([[np.arange(length) for length in LENGTHS[:3]], [np.arange(length) for length in LENGTHS[3:]]])


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, factors: list[torch.Tensor] | None = None
) -> torch.Tensor:
    places = slots(packed_texts(), q.shape[1], k.shape[1])
    return attention.attend(torch.cat([q, k, v], 1), places, scale, factors)


def inputs(heads: int, key_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(sum(LENGTHS), count, 8, generator=generator, requires_grad=True)
        for count in (heads, key_heads, key_heads)
    ]


def one_by_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Text by text, token by token, over the tokens that it may see."""
    outputs, start = [], 0
    share = q.shape[1] // k.shape[1]
    for length in LENGTHS:
        for row in range(start, start + length):
            for head in range(q.shape[1]):
                keys, values = (x[start : row + 1, head // share] for x in (k, v))
                outputs.append(torch.softmax(keys @ q[row, head] * scale, 0) @ values)
        start += length
    return torch.stack(outputs).reshape(sum(LENGTHS), -1)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_equals_attention_text_by_text(heads: int, key_heads: int) -> None:
    ours, plain = inputs(heads, key_heads), inputs(heads, key_heads)
    weights = torch.randn(sum(LENGTHS), heads * 8, generator=torch.Generator().manual_seed(1))
    output = attend(*ours, 0.3)
    expected = one_by_one(*plain, 0.3)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for value, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(value.grad, wanted.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sick", range(len(LENGTHS)))
def test_what_is_no_number_in_one_text_stays_there(sick: int) -> None:
    bounds = np.cumsum([0, *LENGTHS])
    own = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    own[bounds[sick] : bounds[sick + 1]] = True
    well, ill = inputs(4, 2), inputs(4, 2)
    for value in ill:
        value.data[own] = float("nan")
    outputs = [attend(*values, 0.3) for values in (well, ill)]
    for output in outputs:
        output.sum().backward()
    assert outputs[1][own].isnan().all()
    assert torch.equal(outputs[1][~own], outputs[0][~own])
    for a, b in zip(well, ill, strict=True):
        assert torch.equal(a.grad[~own], b.grad[~own])


def test_dropout_takes_the_weights_after_the_softmax() -> None:
    packed, (q, k, v) = packed_texts(), inputs(4, 4)
    zero = [torch.zeros(len(b), 4, packed.lengths[b[0]], packed.lengths[b[0]]) for b in packed.buckets]
    assert not attend(q, k, v, 0.3, zero).any()
    twice = [torch.full_like(factors, 2) for factors in zero]
    plain = attend(q, k, v, 0.3)
    torch.testing.assert_close(attend(q, k, v, 0.3, twice), 2 * plain)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_gradients_through_dropout(heads: int, key_heads: int) -> None:
    packed, ours, plain = packed_texts(), inputs(heads, key_heads), inputs(heads, key_heads)
    generator = torch.Generator().manual_seed(2)
    factors = [
        2.0 * (torch.rand(len(b), heads, *[packed.lengths[b[0]]] * 2, generator=generator) < 0.5)
        for b in packed.buckets
    ]
    where = {text: (number, row) for number, b in enumerate(packed.buckets) for row, text in enumerate(b)}
    starts, outputs = np.cumsum([0, *LENGTHS]), []
    for text, length in enumerate(LENGTHS):
        own = slice(starts[text], starts[text + 1])
        q, k, v = (x[own].transpose(0, 1) for x in plain)
        k, v = (x.repeat_interleave(heads // key_heads, 0) for x in (k, v))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = (q @ k.mT * 0.3).masked_fill(later, float("-inf")).softmax(-1)
        number, row = where[text]
        outputs.append(((weights * factors[number][row, :, :length, :length]) @ v).transpose(0, 1).flatten(1))
    expected, output = torch.cat(outputs), attend(*ours, 0.3, factors)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    (output * output).sum().backward()
    (expected * expected).sum().backward()
    for value, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(value.grad, wanted.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("path")
def test_bfloat16_comes_back_as_bfloat16() -> None:
    q, k, v = (value.detach().bfloat16() for value in inputs(4, 2))
    output = attend(q, k, v, 0.3)
    assert output.dtype == torch.bfloat16
    expected = one_by_one(q.float(), k.float(), v.float(), 0.3)
    torch.testing.assert_close(output.float(), expected, atol=2e-2, rtol=2e-2)
