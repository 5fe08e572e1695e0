"""Robust rules, coordinate by coordinate: median, trimmed mean, and means of bounded steps.

D_1 ... D_n are the round's deltas, float64, in the order of the client ids; NaN and infinity are refused before. Below
the number of updates that a rule needs it refuses; it never turns into an average.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.algorithms.options import require, whole
from fedmq.algorithms.rows import Matrix, of_rows
from fedmq.tensors import NamedTensors, l2_norm, scale


def median() -> Aggregator:
    """The median of each coordinate; for even n the mean of the middle two. Weights do not count.

    Up to (n - 1) / 2 updates may be anything.

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
    return of_rows(_by_column(lambda block: np.median(block, axis=0)), 1, "median")


def trimmed_mean(trim: float = 1) -> Aggregator:
    """The mean of each coordinate without its `trim` lowest and `trim` highest values. Weights do not count.

    Args:
      trim: >= 1; 2 * trim < n. As many updates may be anything.

    Reference:
      Yin et al. 2018 (arXiv 1803.01498).
    """
    cut = whole("trim", trim, least=1)

    def rule(block: np.ndarray) -> np.ndarray:
        block.sort(axis=0)
        return np.asarray(block[cut:-cut].mean(axis=0))

    return of_rows(_by_column(rule), 2 * cut + 1, f"trimmed_mean with trim {cut}")


def geometric_median(iters: float = 4) -> Aggregator:
    """RFA: smoothed Weiszfeld steps towards argmin_z sum_k w_k |z - D_k|, from the weighted mean.

    z <- sum_k b_k D_k / sum_k b_k with b_k = w_k / max(1e-6, |z - D_k|). The weights count; who holds less than half of
    them moves the minimum by a bounded way only. A step leaves a share of the way from the mean that grows with the
    share of the hostile: against updates of a thousand times the usual norm a few steps are not enough.

    Args:
      iters: steps, >= 1; the paper takes 3 or 4, and some hundred come to the minimum.

    Reference:
      Pillutla, Kakade, Harchaoui 2022, Robust Aggregation for Federated Learning (arXiv 1912.13445), algorithm 2.
    """
    steps = whole("iters", iters, least=1)

    def rule(matrix: Matrix) -> np.ndarray:
        weights = np.array(matrix.weights)
        center = _combined(matrix, weights / weights.sum())
        for _ in range(steps):
            near = weights / np.maximum(1e-6, _distances(matrix, center))
            center = _combined(matrix, near / near.sum())
        return center

    return of_rows(rule, 1, "geometric_median")


def centered_clip(tau: float = 10.0, iters: float = 1) -> Aggregator:
    """v <- v + mean_k (D_k - v) min(1, tau / |D_k - v|), `iters` times from v = 0. Weights do not count.

    The paper starts from the last round's v. Here each round starts from no movement, so that nothing is to be
    remembered; more steps come as far.

    Args:
      tau: > 0, in the norm of a delta.
      iters: >= 1.

    Reference:
      Karimireddy, He, Jaggi 2021, Learning from History (arXiv 2012.10333), equation 4.
    """
    require("> 0", tau=tau)
    steps = whole("iters", iters, least=1)

    def rule(matrix: Matrix) -> np.ndarray:
        center, count = np.zeros(matrix.size), len(matrix.weights)
        for _ in range(steps):
            # A distance of 0 is not clipped, whatever tau divided by it would be.
            shares = np.minimum(1.0, tau / np.maximum(_distances(matrix, center), tau * 1e-300)) / count
            center = _combined(matrix, shares) + (1 - shares.sum()) * center
        return center

    return of_rows(rule, 1, "centered_clip")


def norm_clip(clip: float = 1.0) -> Aggregator:
    """The weighted mean of D_k min(1, clip / |D_k|): nobody moves the model further than `clip`. A running sum.

    Args:
      clip: > 0, in the L2 norm of a delta over all tensors.

    Reference:
      Sun et al. 2019, Can You Really Backdoor Federated Learning? (arXiv 1911.07963).
    """
    require("> 0", clip=clip)
    mean = fedavg()

    def fold(state: object, update: Update, weight: float) -> object:
        norm = l2_norm(update.delta)
        shorter: NamedTensors = scale(update.delta, clip / norm) if norm > clip else update.delta
        return mean.fold(state, update._replace(delta=shorter), weight)

    return Aggregator(mean.init, fold, mean.finish)


def _by_column(rule: Callable[[np.ndarray], np.ndarray]) -> Callable[[Matrix], np.ndarray]:
    def whole(matrix: Matrix) -> np.ndarray:
        found = np.empty(matrix.size)
        for place, block in matrix.blocks():
            found[place] = rule(block)
        return found

    return whole


def _combined(matrix: Matrix, shares: np.ndarray) -> np.ndarray:
    """sum_k shares_k D_k, summed in the order of the rows."""
    found = np.zeros(matrix.size)
    for place, block in matrix.blocks():
        for share, row in zip(shares, block, strict=True):
            found[place] += share * row
    return found


def _distances(matrix: Matrix, center: np.ndarray) -> np.ndarray:
    """|D_k - center| of each row."""
    squares = np.zeros(len(matrix.weights))
    for place, block in matrix.blocks():
        squares += np.square(block - center[place]).sum(axis=1)
    return np.sqrt(squares)
