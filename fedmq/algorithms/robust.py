"""Robust rules that look at all updates alike: by coordinate (median, trimmed mean) or by distance from a centre.

D_1 ... D_n are the round's deltas, float64, in the order of the client ids; NaN and infinity are refused before. Below
the number of updates that a rule needs it refuses, and options that would make a mean of it are refused too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.options import require, whole
from fedmq.algorithms.rows import Matrix, of_rows
from fedmq.tensors import l2_norm


def median() -> Aggregator:
    """The median of each coordinate; for even n the mean of the middle two. Weights do not count.

    n >= 3, as the median of two is their mean. Fewer than n / 2 updates may be anything.

    Example:
      >>> rule = median()
      >>> state = rule.init({"w": np.zeros(1)})
      >>> for k, value in enumerate((1.0, 2.0, 1e30)):
      ...     state = rule.fold(state, Update(f"c{k}", 0, 1, 1, {"w": np.array([value])}), 1)
      >>> rule.finish(state)
      {'w': array([2.])}

    Reference:
      Yin et al. 2018, Byzantine-Robust Distributed Learning (arXiv 1803.01498).
    """
    return of_rows(_by_column(middle), 3, "median")


def trimmed_mean(trim: float = 1) -> Aggregator:
    """The mean of each coordinate without its `trim` lowest and `trim` highest values. Weights do not count.

    Args:
      trim: >= 1; 2 * trim < n. As many updates may be anything.

    Reference:
      Yin et al. 2018 (arXiv 1803.01498).
    """
    cut = whole("trim", trim, least=1)

    def rule(block: np.ndarray) -> np.ndarray:
        return np.asarray(np.sort(block, axis=0)[cut:-cut].mean(axis=0))

    return of_rows(_by_column(rule), 2 * cut + 1, f"trimmed_mean with trim {cut}")


def geometric_median(iters: float = 1000, tolerance: float = 1e-6) -> Aggregator:
    """RFA: smoothed Weiszfeld steps towards argmin_z sum_k w_k |z - D_k|, from the weighted mean.

    z <- sum_k b_k D_k / sum_k b_k with b_k = w_k / max(1e-6, |z - D_k|). The weights count; who holds less than half of
    them moves the minimum by a bounded way only.

    Args:
      iters: steps at most, >= 1. The paper takes 3 or 4, which is not enough against an update of any size: far out, a
        step shortens the way by what bad clients weigh per weight of the others.
      tolerance: a step of so many times the harmonic mean of the distances is the last, >= 0. Updates far away do not
        move that mean. Without hostile ones, some ten steps are taken.

    n >= 3, as all points between two minimise.

    Reference:
      Pillutla, Kakade, Harchaoui 2022, Robust Aggregation for Federated Learning (arXiv 1912.13445).
    """
    steps = whole("iters", iters, least=1)
    require(">= 0", tolerance=tolerance)

    def rule(matrix: Matrix) -> np.ndarray:
        weights = matrix.weights
        center = _moved(matrix, np.zeros(matrix.size), weights / weights.sum())
        for _ in range(steps):
            near = weights / np.maximum(1e-6, _distances(matrix, center))
            before, center = center, _moved(matrix, center, near / near.sum())
            step = center - before
            if np.sqrt(np.einsum("i,i->", step, step)) <= tolerance * weights.sum() / near.sum():
                break
        return center

    return of_rows(rule, 3, f"geometric_median with iters {steps} and tolerance {tolerance:g}")


def centered_clip(tau: float = 10.0, iters: float = 1) -> Aggregator:
    """v <- v + mean_k (D_k - v) min(1, tau / |D_k - v|), `iters` times. Weights do not count.

    v starts from the last round's v, which whoever drives the rule gives back (`Aggregator.after`), and from 0 in the
    first. One update moves v by tau * iters / n at most.

    Args:
      tau: > 0, in the L2 norm of a delta; about the distance of an honest one from the mean.
      iters: >= 1.

    Reference:
      Karimireddy, He, Jaggi 2021, Learning from History (arXiv 2012.10333).
    """
    require("> 0", tau=tau)
    steps = whole("iters", iters, least=1)

    def rule(matrix: Matrix) -> np.ndarray:
        center, count = matrix.last, len(matrix.weights)
        for _ in range(steps):
            center = _moved(matrix, center, tau / np.maximum(tau, _distances(matrix, center)) / count)
        return center

    return of_rows(rule, name=f"centered_clip with tau {tau:g} and iters {steps}", told_last=True)


def norm_clip(clip: float = 1.0) -> Aggregator:
    """sum_k w_k D_k min(1, clip / |D_k|) / sum_k w_k: nobody counts as longer than `clip`. A running sum.

    Args:
      clip: > 0, in the L2 norm of a delta over all tensors.

    Reference:
      Sun et al. 2019, Can You Really Backdoor Federated Learning? (arXiv 1911.07963).
    """
    require("> 0", clip=clip)
    mean = fedavg()

    def fold(state: Any, update: Update, weight: float) -> Any:
        shortened = mean.fold(state, update, weight * clip / max(clip, l2_norm(update.delta)))
        return shortened._replace(weight=state.weight + weight)

    return Aggregator(mean.init, fold, mean.finish, name=f"norm_clip with clip {clip:g}")


def middle(block: np.ndarray) -> np.ndarray:
    """The median of each column: float64 (n, columns) -> (columns,).

    numpy's median of few rows takes three times as long.

    Example:
      >>> middle(np.array([[1.0, 5.0], [4.0, 6.0], [2.0, 9.0], [3.0, 8.0]]))
      array([2.5, 7. ])
    """
    rows, half = np.sort(block, axis=0), len(block) // 2
    return np.asarray(rows[half] if len(rows) % 2 else (rows[half - 1] + rows[half]) / 2)


def _by_column(rule: Callable[[np.ndarray], np.ndarray]) -> Callable[[Matrix], np.ndarray]:
    def combine(matrix: Matrix) -> np.ndarray:
        found = np.empty(matrix.size)
        for place, block in matrix.blocks():
            found[place] = rule(block)
        return found

    return combine


# Sums of products below are einsum's own: those of BLAS depend on the number of threads.


def _moved(matrix: Matrix, center: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """center + sum_k shares_k (D_k - center)."""
    found = np.empty(matrix.size)
    for place, block in matrix.blocks():
        found[place] = center[place] + np.einsum("i,ij->j", shares, block - center[place])
    return found


def _distances(matrix: Matrix, center: np.ndarray) -> np.ndarray:
    """|D_k - center| of each row."""
    squares = np.zeros(len(matrix.weights))
    for place, block in matrix.blocks():
        apart = block - center[place]
        squares += np.einsum("ij,ij->i", apart, apart)
    return np.sqrt(squares)
