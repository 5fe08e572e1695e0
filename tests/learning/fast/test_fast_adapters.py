"""Adapters side by side: each client's rows meet its own A and B, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmq.learning.fast.adapters import Adapters, lora_linear

NAME = "base_model.model.h.0.c"
BOUNDS, SCALE = (0, 3, 3, 10), 2.0  # the second client has no rows


def adapters(*, b: bool = True, core: bool = False) -> Adapters:
    rng = np.random.default_rng(0)
    shapes = {f"{NAME}.lora_B.weight": (6, 2), f"{NAME}.lora_A.weight": (2, 5)}
    shapes |= {f"{NAME}.lora_R.weight": (2, 2)} if core else {}
    each = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in BOUNDS[1:]]
    if not b:
        for one in each:
            one[f"{NAME}.lora_B.weight"][:] = 0
    return Adapters(each, SCALE, "cpu")


def by_autograd(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    factors: torch.Tensor,
) -> torch.Tensor:
    owner = torch.tensor([0] * 3 + [2] * 7)
    delta = torch.einsum("nor,nri,ni->no", b[owner], a[owner], x * factors)
    return x @ weight + (0 if bias is None else bias) + SCALE * delta


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_value_and_gradients_are_those_of_autograd(with_bias: bool, p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    side = adapters()
    ab = side.modules["h.0.c"]
    x = torch.randn(10, 5, generator=generator, requires_grad=True)
    weight, bias = torch.randn(5, 6, generator=generator), torch.randn(6, generator=generator) if with_bias else None
    factors = (torch.rand(10, 5, generator=generator) >= p).float() / (1 - p)
    plain = [value.detach().clone().requires_grad_() for value in (x, *ab)]
    up = torch.randn(10, 6, generator=generator)
    output = lora_linear(x, weight, bias, ab, SCALE, BOUNDS, factors if p else None)
    expected = by_autograd(plain[0], weight, bias, *plain[1:], factors)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    output.backward(up)
    expected.backward(up)
    for value, wanted in zip((x, *ab), plain, strict=True):
        torch.testing.assert_close(value.grad, wanted.grad, atol=1e-5, rtol=1e-5)
    assert not side.grad[1].any() and side.grad[0].any() and side.grad[2].any()


def test_gradients_add_up_in_the_rows_that_the_optimiser_reads() -> None:
    side = adapters()
    x, weight = torch.ones(10, 5), torch.zeros(5, 6)
    for _ in range(2):
        lora_linear(x, weight, None, side.modules["h.0.c"], SCALE, BOUNDS, None).sum().backward()
    twice = side.grad.clone()
    rows = side.rows()
    assert all(row.grad.data_ptr() == side.grad[k].data_ptr() for k, row in enumerate(rows))
    side.grad.zero_()
    lora_linear(x, weight, None, side.modules["h.0.c"], SCALE, BOUNDS, None).sum().backward()
    torch.testing.assert_close(twice, 2 * side.grad)
    before = side.named(2)
    with torch.no_grad():
        rows[2].add_(1)
    for name, value in side.named(2).items():
        np.testing.assert_array_equal(value, before[name] + 1)
    torch.testing.assert_close(side.modules["h.0.c"][0][2], torch.tensor(before[f"{NAME}.lora_A.weight"]) + 1)


def test_gradients_of_three_factors_are_those_of_autograd() -> None:
    """Of the written-out s B R A, in two passes of a step; and the next step is of what the optimiser made of them."""
    generator = torch.Generator().manual_seed(1)
    side = adapters(core=True)
    weight, factors = torch.randn(5, 6, generator=generator), torch.ones(10, 5)
    for _ in range(2):
        a, b, core = (
            torch.tensor(np.stack([side.named(k)[f"{NAME}.lora_{which}.weight"] for k in range(3)]), requires_grad=True)
            for which in "ABR"
        )
        side.begin()
        assert not side.grad.any()
        for _ in range(2):
            x, up = torch.randn(10, 5, generator=generator), torch.randn(10, 6, generator=generator)
            output = lora_linear(x, weight, None, side.modules["h.0.c"], SCALE, BOUNDS, None)
            expected = by_autograd(x, weight, None, a, b @ core, factors)
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
            output.backward(up)
            expected.backward(up)
        side.end()
        found = [side.split(row) for row in side.grad]
        for which, wanted in zip("ABR", (a.grad, b.grad, core.grad), strict=True):
            ours = torch.tensor(np.stack([one[f"{NAME}.lora_{which}.weight"] for one in found]))
            torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-5)
            assert ours[0].any() and not ours[1].any()
        side.flat.detach().sub_(side.grad, alpha=0.1)


def test_bfloat16_weights_leave_the_adapters_gradients_float32() -> None:
    side = adapters()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 5, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(5, 6, generator=generator).bfloat16()
    output = lora_linear(x, weight, None, side.modules["h.0.c"], SCALE, BOUNDS, torch.ones(10, 5))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    plain = [value.detach().clone().requires_grad_() for value in (x.float(), *side.modules["h.0.c"])]
    by_autograd(plain[0], weight.float(), None, *plain[1:], torch.ones(10, 5)).sum().backward()
    # Nothing of the adapter's own gradient is rounded to bfloat16: the gradient that came in is all ones.
    for value, wanted in zip(side.modules["h.0.c"], plain[1:], strict=True):
        torch.testing.assert_close(value.grad, wanted.grad, atol=1e-5, rtol=1e-5)


def test_a_copy_is_a_copy_and_the_names_are_kept() -> None:
    side = adapters()
    named = side.named(0)
    assert sorted(named) == [f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"]
    assert {name: value.shape for name, value in named.items()} == {
        f"{NAME}.lora_A.weight": (2, 5),
        f"{NAME}.lora_B.weight": (6, 2),
    }
    named[f"{NAME}.lora_A.weight"][:] = 0
    assert side.named(0)[f"{NAME}.lora_A.weight"].any()
