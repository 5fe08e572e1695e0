"""Aggregation that knows what LoRA factors are.

FlexLoRA and LoRA-FAIR come near to the mean of the products B A with one pair of factors, and need the whole round at
once. Where clients keep one for themselves (FedSA-LoRA) there is nothing to be near to. HetLoRA averages clients by how
much they learnt. A client of smaller rank comes with zeros in its other rows of A and columns of B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, MeanState, Update, fedavg
from fedmq.algorithms.lora_core import is_of
from fedmq.algorithms.lora_exact import fedex, flora
from fedmq.algorithms.lora_factors import Factors, mean_factors, pairs, product_norm
from fedmq.algorithms.lora_one_factor import ffa, rolora
from fedmq.algorithms.lora_sb import fed_sb
from fedmq.algorithms.options import require
from fedmq.algorithms.rows import Matrix, flat, of_rows
from fedmq.tensors import NamedTensors, require_same_shapes

#: clients' factors of one module -> the next global (A, B)
_Rule = Callable[[list[Factors]], tuple[np.ndarray, np.ndarray]]
#: what the norm of an update counts at least: next to nothing beside another, all the same where there is no other
_LEAST_NORM = 1e-30


def flexlora() -> Aggregator:
    """The best factors of rank r of the mean update: U S V' = svd_r(sum_k p_k B_k A_k); B = U S^1/2, A = S^1/2 V'.

    The truncation error is the root of the sum of the squares of the singular values from the r-th on. Factors are
    those of the mean update in no fixed rotation: B and A jump from round to round while B A moves little.

    Reference:
      Bai et al. 2024, FlexLoRA (arXiv 2402.11505), with the square root of S on both sides. The singular value
      decomposition is of a matrix of (clients * r)^2, after two QR decompositions of the stacked factors.
    """
    return _of_factors(_best_of_rank, "flexlora")


class _HetState(NamedTuple):
    mean: MeanState
    like: NamedTensors


def hetlora() -> Aggregator:
    """The mean by p_k in proportion to w_k |B_k A_k|, w_k being the weight: a client with a larger update counts more.

    The norm is that of the products over all modules. Where nobody's is above 0 the w_k alone count, as in `fedavg`.

    Example:
      >>> a, b = "m.lora_A.weight", "m.lora_B.weight"
      >>> rule = hetlora()
      >>> state = rule.init({a: np.ones((1, 1)), b: np.zeros((1, 1))})
      >>> for client, learnt in (("a", 1.0), ("b", 3.0)):
      ...     delta = {a: np.zeros((1, 1)), b: np.full((1, 1), learnt)}
      ...     state = rule.fold(state, Update(client, 0, 1, 1, delta), 1)
      >>> rule.finish(state)[b]
      array([[2.5]])

    Reference:
      Cho et al. 2024, HetLoRA (arXiv 2401.06432), sparsity-weighted aggregation, there with w_k = 1; clients do not
      prune their own rank.
    """
    mean = fedavg()

    def fold(state: _HetState, update: Update, weight: float) -> _HetState:
        require_same_shapes(state.like, update.delta)
        local = ((state.like[name] + update.delta[name] for name in pair) for pair in pairs(state.like))
        norm = product_norm(Factors(1.0, *pair) for pair in local)
        return state._replace(mean=mean.fold(state.mean, update, weight * max(norm, _LEAST_NORM)))

    return Aggregator(
        lambda like: _HetState(mean.init(like), like), fold, lambda state: mean.finish(state.mean), name="hetlora"
    )


def lora_fair(lam: float = 0.01) -> Aggregator:
    """The averaged A, and a B that makes up for the bias: B' + E A'^T (A' A'^T + lam I)^-1, a ridge regression.

    E = sum_k p_k (B_k - B') (A_k - A') is what averaging loses; of it, this regains the part in the rows of A'.

    Args:
      lam: > 0; the larger, the nearer B stays to the averaged one.

    Reference:
      Bian et al. 2025, LoRA-FAIR (arXiv 2411.14961), in closed form, with the Frobenius distance.
    """
    require("> 0", lam=lam)

    def rule(clients: list[Factors]) -> tuple[np.ndarray, np.ndarray]:
        a, b = mean_factors(clients)
        total = sum(client.weight for client in clients)
        seen = sum(c.weight / total * (c.b - b) @ ((c.a - a) @ a.T) for c in clients)
        return a, b + np.linalg.solve(a @ a.T + lam * np.eye(len(a)), np.asarray(seen).T).T

    return _of_factors(rule, f"lora_fair with lam {lam:g}")


def fedsa() -> Aggregator:
    """A' = sum_k p_k A_k. Each B_k stays with its client, whose own model is B_k A'; there is no model of all.

    Clients train both factors. Only A is in adapters and updates (`fedmq.algorithms.personal`): `init` refuses a B.

    Reference:
      Guo et al. 2025, Selective Aggregation for Low-Rank Adaptation in Federated Learning (arXiv 2410.01463).
    """
    mean = fedavg()

    def init(like: NamedTensors) -> Any:
        if own := [name for name in like if not is_of(name, "A")]:
            raise ValueError(f"{own[0]} is its client's own, and should not be here")
        return mean.init(like)

    return mean._replace(init=init, name="fedsa")


def local() -> Aggregator:
    """Nothing is shared, each client trains a model of its own, alone: what the others are worth is told against it.

    No update holds a tensor (`fedmq.algorithms.personal`): `init` refuses any.
    """
    mean = fedavg()

    def init(like: NamedTensors) -> Any:
        if like:
            raise ValueError(f"{min(like)} is its client's own, and should not be here")
        return mean.init(like)

    return mean._replace(init=init, name="local")


def _best_of_rank(clients: list[Factors]) -> tuple[np.ndarray, np.ndarray]:
    total, rank = sum(client.weight for client in clients), len(clients[0].a)
    q_b, r_b = np.linalg.qr(np.hstack([client.weight / total * client.b for client in clients]))
    q_a, r_a = np.linalg.qr(np.vstack([client.a for client in clients]).T)
    u, s, vt = np.linalg.svd(r_b @ r_a.T)
    root = np.sqrt(s[:rank])
    return root[:, None] * (vt[:rank] @ q_a.T), (q_b @ u[:, :rank]) * root


def _of_factors(rule: _Rule, name: str) -> Aggregator:
    """An aggregator that gives each pair of factors to `rule`, and averages all other tensors."""

    def whole(matrix: Matrix) -> np.ndarray:
        shares, like = matrix.weights / matrix.weights.sum(), matrix.like
        moved = {other: np.einsum("k,k...->...", shares, matrix.tensor(other)) for other in like}
        for pair in pairs(like):
            a, b = (like[factor] + matrix.tensor(factor) for factor in pair)
            new = rule([Factors(*client) for client in zip(shares, a, b, strict=True)])
            moved |= {factor: value - like[factor] for factor, value in zip(pair, new, strict=True)}
        return flat(moved)

    return of_rows(whole, name=name)


BY_NAME: Mapping[str, Callable[..., Aggregator]] = {
    "fed_sb": fed_sb,
    "fedex": fedex,
    "fedit": fedavg,
    "fedsa": fedsa,
    "ffa": ffa,
    "flexlora": flexlora,
    "flora": flora,
    "hetlora": hetlora,
    "local": local,
    "lora_fair": lora_fair,
    "rolora": rolora,
}
