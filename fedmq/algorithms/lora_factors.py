"""The LoRA factors in an adapter, and how far averaging them is from averaging their products.

A module's update of the frozen weight is s B A, with A of shape (r, d_in) and B of shape (d_out, r). The clients' mean
update is W = sum_k p_k B_k A_k; the product of the averaged factors, B' A', is off by the covariance of the drifts,

    E = W - B' A' = sum_k p_k (B_k - B') (A_k - A'),   B' = sum_k p_k B_k,   A' = sum_k p_k A_k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedmq.algorithms.lora_core import A, B
from fedmq.tensors import NamedTensors


class Pair(NamedTuple):
    """The names of one module's factors."""

    a: str
    b: str


class Factors(NamedTuple):
    """One client's factors of one module.

    Attributes:
      weight: p_k > 0; they need not sum to 1.
      a: float64, shape (r, d_in).
      b: float64, shape (d_out, r).
    """

    weight: float
    a: np.ndarray
    b: np.ndarray


def pairs(adapter: NamedTensors) -> list[Pair]:
    """The factor pairs in an adapter, by name: A (r, d_in) and B (d_out, r) that have a product. All else is in none.

    Example:
      >>> a, b = np.ones((2, 3)), np.ones((4, 2))
      >>> pairs({"h.0.lora_A.weight": a, "h.0.lora_B.weight": b, "h.1.lora_A.weight": a, "h.1.bias": b})
      [Pair(a='h.0.lora_A.weight', b='h.0.lora_B.weight')]
    """
    modules = [name.removesuffix(A) for name in sorted(adapter) if name.endswith(A)]
    found = [Pair(module + A, module + B) for module in modules]
    return [pair for pair in found if pair.b in adapter and _multiply(adapter[pair.a], adapter[pair.b])]


def _multiply(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]


def mean_factors(clients: Sequence[Factors]) -> tuple[np.ndarray, np.ndarray]:
    """(A', B'): the weighted means of the factors, as FedIT takes them (arXiv 2305.05644)."""
    total = sum(client.weight for client in clients)
    a = sum(client.weight / total * client.a for client in clients)
    b = sum(client.weight / total * client.b for client in clients)
    return np.asarray(a), np.asarray(b)


def squared_norms(clients: Sequence[Factors]) -> tuple[float, float]:
    """(|E|^2, |W|^2) of one module, squared Frobenius norms, without making either matrix where that is dearer.

    Args:
      clients: at least one; all of one rank r. Where len(clients) * r is below both d_in and d_out, only Gram matrices
        of that size are made, else W itself.

    Example:
      >>> one, two = (Factors(1.0, np.eye(1, 3), np.eye(3, 1) * k) for k in (1.0, 3.0))
      >>> squared_norms([one, two])
      (0.0, 4.0)
    """
    total = sum(client.weight for client in clients)
    shares = [client.weight / total for client in clients]
    a_mean, b_mean = mean_factors(clients)
    rank, d_in = clients[0].a.shape
    if len(clients) * rank < min(d_in, len(clients[0].b)):
        whole = _product_norm(shares, [c.b for c in clients], [c.a for c in clients])
        return _product_norm(shares, [c.b - b_mean for c in clients], [c.a - a_mean for c in clients]), whole
    update, error = np.zeros((len(b_mean), d_in)), np.zeros((len(b_mean), d_in))
    for share, client in zip(shares, clients, strict=True):
        update += share * client.b @ client.a
        error += share * (client.b - b_mean) @ (client.a - a_mean)
    return float(np.vdot(error, error)), float(np.vdot(update, update))


def relative_bias(modules: Iterable[Sequence[Factors]]) -> float:
    """|E| / |W| over all modules, Frobenius norms: what averaging the factors loses of the mean update. 0 when W is 0.

    Args:
      modules: the clients' factors of one module after another, so that a caller need hold one module at a time.

    Example:
      >>> same = Factors(1.0, np.ones((1, 2)), np.ones((2, 1)))
      >>> relative_bias([[same, same], [same]])
      0.0

    Reference:
      FedEx-LoRA (arXiv 2410.09432); the covariance form keeps small biases exact where W - B' A' cancels.
    """
    error = whole = 0.0
    for clients in modules:
        of_error, of_whole = squared_norms(clients)
        error, whole = error + of_error, whole + of_whole
    return math.sqrt(error / whole) if whole else 0.0


def product_norm(clients: Iterable[Factors]) -> float:
    """|(B_1 A_1, B_2 A_2, ...)|, the Frobenius norm of one adapter's products over its modules, through Gram matrices.

    Args:
      clients: the adapter's factors of one module after another; the weights do not count.

    Example:
      >>> product_norm([Factors(1.0, np.eye(1, 2) * 3, np.eye(2, 1)), Factors(1.0, np.eye(1, 2), np.eye(2, 1) * 4)])
      5.0
    """
    return math.sqrt(sum(_product_norm([1.0], [client.b], [client.a]) for client in clients))


def factors(adapters: Iterable[tuple[float, NamedTensors]], pair: Pair) -> list[Factors]:
    """Each client's factors of one module, in float64."""
    return [Factors(w, x[pair.a].astype(np.float64), x[pair.b].astype(np.float64)) for w, x in adapters]


def _product_norm(shares: Sequence[float], bs: Sequence[np.ndarray], as_: Sequence[np.ndarray]) -> float:
    """|sum_k p_k B_k A_k|^2 = sum of (S_B^T S_B) * (S_A S_A^T) over the stacked factors."""
    b = np.hstack([share * value for share, value in zip(shares, bs, strict=True)])
    a = np.vstack(as_)
    # Rounding may leave a sum of products a hair below 0.
    return max(0.0, float(np.vdot(b.T @ b, a @ a.T)))
