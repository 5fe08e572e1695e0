"""The adapters of one or more clients, side by side in one tensor, and their products with packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fedmq.algorithms.lora_core import A, B, R, is_of
from fedmq.recipe import Factors
from fedmq.tensors import NamedTensors

_PREFIX = "base_model.model."


class Adapters:
    """K adapters of equal shape: float32, with gradients.

    Attributes:
      flat, grad: float32 (K, P): one client's adapter in a row, tensor after tensor by name.
      modules: path of a module in the base -> (A, B), float32 (K, r, in) and (K, out, r), views of `flat` whose
        gradients are views of `grad`. Of adapters with an R (`fedmq.algorithms.lora_core`) B R stands for B, and what
        it has to do with the views is for `begin` and `end` of a step.
      scale: of the product, lora_alpha / r.
    """

    def __init__(self, adapters: Sequence[NamedTensors], scale: float, device: str) -> None:
        self.scale = scale
        self._shapes = {name: adapters[0][name].shape for name in sorted(adapters[0])}
        self.flat = torch.from_numpy(self._stacked(adapters)).to(device)
        self.grad = torch.zeros_like(self.flat)
        self.modules: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        views, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + int(np.prod(shape))
            view = self.flat[:, start:end].unflatten(1, shape).requires_grad_()
            view.grad = self.grad[:, start:end].unflatten(1, shape)
            views[name], start = view, end
        #: of each module with an R: B, R and their product
        self._cores: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for name in self._shapes:
            if name.endswith(A):
                path = name.removesuffix(A)
                b, core = views[path + B], views.get(path + R)
                if core is not None:
                    product = torch.empty_like(b).requires_grad_()
                    product.grad = torch.zeros_like(product)
                    self._cores.append((b, core, product))
                    b = product
                self.modules[path.removeprefix(_PREFIX)] = (views[name], b)
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Have the products B R of what is in `flat`, and no gradients."""
        self.grad.zero_()
        for b, core, product in self._cores:
            torch.matmul(b, core, out=product)
            product.grad.zero_()  # type: ignore[union-attr]

    @torch.no_grad()
    def end(self) -> None:
        """Have the gradients of B and R of those of their products: with D of B R, D R^T and B^T D."""
        for b, core, product in self._cores:
            b.grad.add_(product.grad @ core.mT)  # type: ignore[union-attr, operator]
            core.grad.add_(b.mT @ product.grad)  # type: ignore[union-attr, operator]

    def load(self, adapters: Sequence[NamedTensors]) -> None:
        """Other values, of the same shapes, in the same place."""
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(self._stacked(adapters)))
        self.begin()

    def frozen(self, factors: Factors) -> torch.Tensor | None:
        """Which of the P values of an adapter are not trained, bool (P,); None where all are."""
        if factors == "both":
            return None
        sizes = ((int(np.prod(shape)), not is_of(name, factors)) for name, shape in self._shapes.items())
        return torch.cat([torch.full((size,), still) for size, still in sizes]).to(self.flat.device)

    def rows(self) -> list[torch.Tensor]:
        """Each client's adapter as one parameter (P,) with its gradient."""
        rows = []
        for value, grad in zip(self.flat, self.grad, strict=True):
            row = value.detach().requires_grad_()
            row.grad = grad
            rows.append(row)
        return rows

    def named(self, k: int) -> dict[str, np.ndarray]:
        """A copy of client k's adapter, named as in a PEFT state dict."""
        return self.split(self.flat[k])

    def split(self, row: torch.Tensor) -> dict[str, np.ndarray]:
        """A copy of P values, one for each of an adapter, by the adapter's names."""
        values, named, start = row.detach().cpu().numpy(), {}, 0
        for name, shape in self._shapes.items():
            end = start + int(np.prod(shape))
            named[name] = values[start:end].reshape(shape).copy()
            start = end
        return named

    def _stacked(self, adapters: Sequence[NamedTensors]) -> np.ndarray:
        return np.stack([np.concatenate([adapter[name].ravel() for name in self._shapes]) for adapter in adapters])

    def joined(self, named: NamedTensors) -> torch.Tensor:
        """The other way, float32 (P,); 0 for names that are missing."""
        parts = [np.ravel(named.get(name, np.zeros(shape))) for name, shape in self._shapes.items()]
        return torch.from_numpy(np.concatenate(parts, dtype=np.float32)).to(self.flat.device)


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ab: tuple[torch.Tensor, torch.Tensor],
    scale: float,
    bounds: tuple[int, ...],
    factors: torch.Tensor | None,
) -> torch.Tensor:
    """x W + bias + scale (x * factors) A_k^T B_k^T, where k is the client of the row.

    Args:
      x: (n, in), in the precision of `weight`.
      weight, bias: frozen, (in, out) and (out,).
      ab: A (K, r, in) and B (K, out, r), float32; their products and gradients are float32 whatever x is.
      scale: lora_alpha / r.
      bounds: K + 1 row numbers.
      factors: of dropout, (n, in); None is none.

    Returns:
      (n, out), dtype of x.

    Reference: Hu et al., LoRA (2106.09685), eq. 3; many adapters on one base as in S-LoRA (2311.03285).
    """
    result: torch.Tensor = _LoRALinear.apply(x, weight, bias, *ab, scale, bounds, factors)
    return result


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        bounds: tuple[int, ...],
        factors: torch.Tensor | None,
    ) -> torch.Tensor:
        y = x @ weight if bias is None else torch.addmm(bias, x, weight)
        z = _each(_dropped(x, factors), a.mT, bounds).mul_(scale)
        # A product with a long and narrow matrix takes up to three times as long as with a short and wide one.
        b_wide = b.mT.contiguous()
        ctx.save_for_backward(x, weight, a, b_wide, factors, z)
        ctx.scale, ctx.bounds, ctx.grads = scale, bounds, (a.grad, b.grad)
        return y.add_(_each(z, b_wide, bounds))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight, a, b_wide, factors, z = ctx.saved_tensors
        dy = grads[0].float()
        dz = _each(dy, b_wide.mT, ctx.bounds).mul_(ctx.scale)
        # Added where the optimiser reads them: autograd's own sum wants another layout, and a copy for it.
        _add_outer(ctx.grads[0], dz, _dropped(x, factors), ctx.bounds)
        _add_outer(ctx.grads[1].mT, z, dy, ctx.bounds)
        dx = None
        if ctx.needs_input_grad[0]:
            through = _each(dz, a, ctx.bounds)
            dx = (grads[0] @ weight.mT).add_(through if factors is None else through.mul_(factors))
        return dx, None, None, None, None, None, None, None


def _dropped(x: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    return x.float() if factors is None else x.float().mul_(factors) if x.dtype != torch.float32 else x * factors


def _each(x: torch.Tensor, matrices: torch.Tensor, bounds: tuple[int, ...]) -> torch.Tensor:
    """Each client's rows times its matrix: (n, i), (K, i, j) -> (n, j)."""
    if len(bounds) == 2:
        return x @ matrices[0]
    if x.is_cuda and _even(bounds):
        return (x.unflatten(0, (len(matrices), -1)) @ matrices).flatten(0, 1)
    return torch.cat([x[start:end] @ m for m, (start, end) in zip(matrices, pairwise(bounds), strict=True)])


def _add_outer(total: torch.Tensor, u: torch.Tensor, v: torch.Tensor, bounds: tuple[int, ...]) -> None:
    """Add each client's sum of outer products over its rows: (n, i), (n, j) into (K, i, j)."""
    if u.is_cuda and _even(bounds):
        u, v = (x.unflatten(0, (len(total), -1)) for x in (u, v))
        total.baddbmm_(u.mT, v)
        return
    for k, (start, end) in enumerate(pairwise(bounds)):
        total[k].add_(u[start:end].mT @ v[start:end])


def _even(bounds: tuple[int, ...]) -> bool:
    """Whether all clients have as many rows, so that a card does for all at once what it does for each."""
    return bounds[-1] > 0 and bounds == tuple(range(0, bounds[-1] + 1, bounds[1]))
