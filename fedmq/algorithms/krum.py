"""Robust rules that choose whole updates by their distances to the others: Krum, Multi-Krum, Bulyan.

D_1 ... D_n are the round's deltas, float64, in the order of the client ids; of equal scores the first wins. f of them
may be anything. Distances are sums of squares of differences: the expanded form cancels for updates that are near each
other. All take O(n^2 P) time and, beside the rows, n^2 distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.options import one_of, whole
from fedmq.algorithms.robust import middle
from fedmq.algorithms.rows import Matrix, of_rows

VARIANTS = ("paper", "byzfl", "flower")


def krum(f: float = 1) -> Aggregator:
    """The update with the lowest score: the sum of its squared distances to its n - f - 2 nearest others.

    Weights do not count.

    Args:
      f: >= 0; n >= 2 f + 3.

    Reference:
      Blanchard et al. 2017, Machine Learning with Adversaries (NeurIPS).
    """
    bad = whole("f", f, least=0)

    def rule(matrix: Matrix) -> np.ndarray:
        scores = _scores(_squared_distances(matrix), len(matrix.weights) - bad - 2)
        return _mean(matrix, [int(np.argmin(scores))])

    return of_rows(rule, 2 * bad + 3, f"krum with f {bad}")


def multi_krum(f: float = 1, m: float | None = None, variant: str = "paper") -> Aggregator:
    """The mean of the m updates with the lowest Krum scores.

    Args:
      f: >= 0; n >= 2 f + 3.
      m: 1 <= m <= n - f - 2; None takes n - f - 2, or n - f under "byzfl".
      variant: "paper": scores as of `krum`, unweighted mean. "flower" (flwr 1.41): the same scores, and the mean is by
        weights. "byzfl" (ByzFL 0.0.11): scores over n - f neighbours, each update one of its own; f >= 1, m <= n - f.

    Reference:
      Blanchard et al. 2017 (NeurIPS).
    """
    one_of(VARIANTS, variant=variant)
    # byzfl's n - f of n would be the mean of all.
    bad = whole("f", f, least=1 if variant == "byzfl" else 0)
    count = None if m is None else whole("m", m, least=1)
    # So many updates beyond m there are to be.
    beyond = bad if variant == "byzfl" else bad + 2
    fewest = max(2 * bad + 3, (count or 1) + beyond)

    def rule(matrix: Matrix) -> np.ndarray:
        n = len(matrix.weights)
        distances = _squared_distances(matrix)
        scores = _scores(distances, n - bad - 1 if variant == "byzfl" else n - bad - 2)
        chosen = np.argsort(scores, kind="stable")[: count or n - beyond].tolist()
        return _mean(matrix, chosen, weighted=variant == "flower")

    name = f"multi_krum, variant {variant}, with f {bad}" + ("" if count is None else f" and m {count}")
    return of_rows(rule, fewest, name)


def bulyan(f: float = 1) -> Aggregator:
    """n - 2 f picks by Krum, one after another out of the rest; then, of each coordinate, the mean of the middle ones.

    The middle ones are the n - 4 f values that are nearest to the median of the picks. Weights do not count.

    Args:
      f: >= 1, as with 0 it would be the mean; n >= 4 f + 3.

    Reference:
      El Mhamdi, Guerraoui, Rouault 2018, The Hidden Vulnerability of Distributed Learning (arXiv 1802.07927).
    """
    bad = whole("f", f, least=1)

    def rule(matrix: Matrix) -> np.ndarray:
        distances, rest, picks = _squared_distances(matrix), list(range(len(matrix.weights))), list[int]()
        count = len(rest) - 2 * bad
        while len(picks) < count:
            scores = _scores(distances[np.ix_(rest, rest)], max(1, len(rest) - bad - 2))
            picks.append(rest.pop(int(np.argmin(scores))))
        found = np.empty(matrix.size)
        for place, block in matrix.blocks():
            values = block[sorted(picks)]
            nearest = np.argsort(np.abs(values - middle(values)), axis=0, kind="stable")[: count - 2 * bad]
            found[place] = np.take_along_axis(values, nearest, axis=0).mean(axis=0)
        return found

    return of_rows(rule, 4 * bad + 3, f"bulyan with f {bad}")


def _squared_distances(matrix: Matrix) -> np.ndarray:
    """|D_i - D_j|^2: float64 (n, n), symmetric to the bit, infinite on the diagonal."""
    n = len(matrix.weights)
    found = np.zeros((n, n))
    for _, block in matrix.blocks():
        memory = np.empty_like(block)
        for i in range(n - 1):
            apart = np.subtract(block[i + 1 :], block[i], out=memory[i + 1 :])
            found[i, i + 1 :] += np.einsum("ij,ij->i", apart, apart)
    found += found.T
    np.fill_diagonal(found, np.inf)
    return found


def _scores(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """The sum of each row's smallest distances to others."""
    return np.asarray(np.sort(distances, axis=1)[:, :neighbours].sum(axis=1))


def _mean(matrix: Matrix, chosen: Sequence[int], weighted: bool = False) -> np.ndarray:
    """The mean of rows, summed in their order whatever that of `chosen`."""
    chosen = sorted(chosen)
    weights = matrix.weights[chosen] if weighted else np.ones(len(chosen))
    found = np.empty(matrix.size)
    for place, block in matrix.blocks():
        found[place] = np.einsum("i,ij->j", weights, block[chosen])
    return np.asarray(found / weights.sum())
