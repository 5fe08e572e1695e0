"""LoRA aggregation that loses nothing: what one pair of factors cannot hold is merged into the frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.lora_factors import Pair, pairs
from fedmq.algorithms.options import whole
from fedmq.algorithms.rows import Matrix, flat, of_rows
from fedmq.rng import derive

#: Singular values below this part of |A| |B|, all clients' factors, are rounding.
_NOTHING = 1e-12


def fedex() -> Aggregator:
    """The averaged factors, as FedIT; and what these are off by, E = sum_k p_k (B_k - B') (A_k - A'), is merged.

    So W' + s B' A' = sum_k p_k (W + s B_k A_k): the model is the clients' mean. E of n clients has rank (n - 1) r at
    most, and is left as factors of its rank.

    Example:
      >>> from fedmq.algorithms.aggregate import Update
      >>> rule = fedex()
      >>> like = {"h.lora_A.weight": np.zeros((1, 2), np.float32), "h.lora_B.weight": np.zeros((2, 1), np.float32)}
      >>> state = rule.init(like)
      >>> for client, x in (("a", 1.0), ("b", 3.0)):
      ...     moved = {name: np.full(value.shape, x) for name, value in like.items()}
      ...     state = rule.fold(state, Update(client, 0, 1, 1, moved), 1)
      >>> merged, delta = rule.merged(state), rule.finish(state)
      >>> delta["h.lora_A.weight"], merged["h.lora_B.weight"] @ merged["h.lora_A.weight"]
      (array([[2., 2.]]), array([[1., 1.],
             [1., 1.]], dtype=float32))

    Reference:
      Singhal et al. 2025, FedEx-LoRA (arXiv 2410.09432), equations 8 to 10, with weights p_k.
    """
    return of_rows(_mean, name="fedex", merged=lambda matrix: _factors(matrix, _residual))


def flora(seed: int = 0) -> Aggregator:
    """All of the mean update, sum_k p_k B_k A_k, is merged; the next round begins with a new A, and B = 0.

    A is uniform in +-1/sqrt(d_in), as LoRA begins, drawn from `seed` and the version.

    Args:
      seed: >= 0; a run gives its own.

    Example:
      >>> from fedmq.algorithms.aggregate import Update
      >>> rule = flora(seed=7)
      >>> like = {"h.lora_A.weight": np.ones((1, 4), np.float32), "h.lora_B.weight": np.zeros((2, 1), np.float32)}
      >>> state = rule.init(like)
      >>> moved = {"h.lora_A.weight": np.zeros((1, 4)), "h.lora_B.weight": np.full((2, 1), 3.0)}
      >>> state = rule.fold(state, Update("a", 0, 1, 1, moved), 1)
      >>> merged = rule.merged(state)
      >>> float((merged["h.lora_B.weight"] @ merged["h.lora_A.weight"]).mean().round(4))
      3.0

    Reference:
      Wang et al. 2024, FLoRA (arXiv 2409.05976), whose stack [p_1 A_1; ...], [B_1 ...] is of the same product; all
      clients of a round begin with the same A.
    """

    seed = whole("seed", seed, least=0)

    def restart(matrix: Matrix) -> np.ndarray:
        moved = _named_mean(matrix)
        for pair in pairs(matrix.like):
            rng = derive(seed, f"flora {pair.a}", matrix.version)
            bound = matrix.like[pair.a].shape[1] ** -0.5
            new = rng.uniform(-bound, bound, matrix.like[pair.a].shape).astype(np.float32)
            moved |= {pair.a: new - matrix.like[pair.a].astype(np.float64), pair.b: -matrix.like[pair.b]}
        return flat(moved)

    return of_rows(restart, name="flora", merged=lambda matrix: _factors(matrix, _whole))


#: clients' shares p_k (n,), A_k (n, r, d_in), B_k (n, d_out, r) -> (B, A) of n r columns and rows
_Stack = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _residual(shares: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _whole(shares, a - np.tensordot(shares, a, 1), b - np.tensordot(shares, b, 1))


def _whole(shares: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hstack(list(shares[:, None, None] * b)), np.vstack(list(a))


def _mean(matrix: Matrix) -> np.ndarray:
    shares, found = matrix.weights / matrix.weights.sum(), np.empty(matrix.size)
    for place, block in matrix.blocks():
        found[place] = shares @ block
    return found


def _named_mean(matrix: Matrix) -> dict[str, np.ndarray]:
    shares = matrix.weights / matrix.weights.sum()
    return {name: np.tensordot(shares, matrix.tensor(name), 1) for name in matrix.like}


def _factors(matrix: Matrix, stack: _Stack) -> dict[str, np.ndarray]:
    """What is merged of every module, float32: a pair of factors of its own rank; modules of rank 0 are left out."""
    shares = matrix.weights / matrix.weights.sum()
    found: dict[str, np.ndarray] = {}
    for pair in pairs(matrix.like):
        a, b = (matrix.like[name] + matrix.tensor(name) for name in pair)
        least = _NOTHING * float(np.linalg.norm(a) * np.linalg.norm(b))
        found |= dict(_compressed(pair, *stack(shares, a, b), least))
    return found


def _compressed(pair: Pair, b: np.ndarray, a: np.ndarray, least: float) -> Iterator[tuple[str, np.ndarray]]:
    """B A as factors of least rank, each with the root of the singular values; those up to `least` are left out."""
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    rank = int((s > least).sum())
    root = np.sqrt(s[:rank])
    if rank:
        yield pair.a, np.asarray(root[:, None] * (vt[:rank] @ q_a.T), np.float32)
        yield pair.b, np.asarray((q_b @ u[:, :rank]) * root, np.float32)
