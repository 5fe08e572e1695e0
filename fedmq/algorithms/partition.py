"""Partitions: which rows go to which client."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedmq import rng
from fedmq.algorithms.options import require
from fedmq.algorithms.partition_labels import dirichlet
from fedmq.algorithms.partition_owners import by_author, by_brand
from fedmq.algorithms.partition_shares import Partitioner, Rows, Share, Wanted, cut_equally, joined
from fedmq.algorithms.partition_sizes import quantity


def iid() -> Partitioner:
    """Shuffle the rows and deal them in equal parts; sizes differ by at most 1.

    Example:
      >>> rows = Rows(np.array([10, 20, 30]))
      >>> [len(share.train) for share in iid().deal(rows, rows, Wanted(num_clients=2, seed=1))]
      [2, 1]
    """

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        def parts(rows: Rows) -> list[np.ndarray]:
            order = rng.derive(wanted.seed, "partition").permutation(len(rows.lengths))
            return cut_equally(order, wanted.num_clients)

        return joined(parts(train), parts(val))

    return Partitioner(deal)


def non_iid() -> Partitioner:
    """Sort the rows by text length, cut 2 * num_clients chunks, give each client 2 at random; all rows are used.

    The chunks are drawn whatever the lengths, so a client's training and validation texts have the same bands of
    length. Rows of equal length keep their order.

    Reference: McMahan et al. 2017 (arXiv 1602.05629), section 3, where rows are sorted by label instead.

    Example:
      >>> rows = Rows(np.array([9, 1, 5, 3]))
      >>> [share.train.tolist() for share in non_iid().deal(rows, rows, Wanted(num_clients=2, seed=2))]
      [[0, 3], [1, 2]]
    """

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        def parts(rows: Rows) -> list[np.ndarray]:
            chunks = cut_equally(np.argsort(rows.lengths, kind="stable"), 2 * wanted.num_clients)
            order = rng.derive(wanted.seed, "partition").permutation(2 * wanted.num_clients)
            return [np.concatenate([chunks[a], chunks[b]]) for a, b in order.reshape(wanted.num_clients, 2)]

        return joined(parts(train), parts(val))

    return Partitioner(deal)


def length(sigma: float = 0.5) -> Partitioner:
    """Sort the rows by sigma z + (1 - sigma) e and deal them in equal parts; the first client has the shortest texts.

    z are the lengths less their mean, over their standard deviation; e is standard normal noise of each row.

    Args:
      sigma: in [0, 1]: 0 is iid, 1 sorts by length and nothing else.

    Reference: the ContinuousPartitioner of flwr-datasets, whose `strictness` sigma is.

    Example:
      >>> rows = Rows(np.array([30, 10, 40, 20]))
      >>> [share.train.tolist() for share in length(sigma=1.0).deal(rows, rows, Wanted(num_clients=2, seed=1))]
      [[1, 3], [0, 2]]
    """
    require("in [0, 1]", sigma=sigma)

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        def parts(rows: Rows) -> list[np.ndarray]:
            order = length_order(rows.lengths, sigma, rng.derive(wanted.seed, "partition"))
            return cut_equally(order, wanted.num_clients)

        return joined(parts(train), parts(val))

    return Partitioner(deal)


def length_order(lengths: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Positions by sigma z + (1 - sigma) e, ascending; see `length`.

    Example:
      >>> length_order(np.array([30, 10, 20]), 1.0, np.random.default_rng(0)).tolist()
      [1, 2, 0]
    """
    noise = generator.normal(size=len(lengths))
    # Texts that are all equally long have no order: what is left is the noise.
    spread = (lengths.std() if len(lengths) else 0.0) or 1.0
    centred = lengths - lengths.mean() if len(lengths) else lengths
    return np.argsort(sigma * centred / spread + (1 - sigma) * noise, kind="stable")


BY_NAME: Mapping[str, Callable[..., Partitioner]] = {
    "iid": iid,
    "non_iid": non_iid,
    "by_author": by_author,
    "by_brand": by_brand,
    "dirichlet": dirichlet,
    "quantity": quantity,
    "length": length,
}
