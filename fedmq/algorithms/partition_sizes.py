"""The partition of clients that differ in how much they have, and in nothing else."""

from __future__ import annotations

import numpy as np

from fedmq import rng
from fedmq.algorithms.options import one_of, require, whole
from fedmq.algorithms.partition_shares import Partitioner, Rows, Share, Wanted, cut, joined, largest_remainder
from fedmq.errors import DataError


def quantity(
    law: str = "dirichlet", alpha: float | None = None, exponent: float | None = None, min_rows: float = 1
) -> Partitioner:
    """Random rows in unequal parts: each client gets `min_rows`, and of the others its share s_k.

    Largest remainders make the parts whole; they sum to the number of rows. The validation rows are dealt in
    proportion to the training rows.

    Args:
      law: "dirichlet": s ~ Dir(alpha, ..., alpha). "power": s_k in proportion to k^-exponent, k = 1, 2, ...
      alpha: > 0, of "dirichlet"; the smaller, the more unequal. None = 0.5.
      exponent: >= 0, of "power"; 0 makes all equal. None = 1.
      min_rows: at least 1.

    Reference: Li et al. 2022, NIID-Bench (arXiv 2102.02079), section 4.3, quantity skew ("dirichlet").

    Example:
      >>> rows = Rows(np.arange(11))
      >>> shares = quantity(law="power", exponent=1).deal(rows, rows, Wanted(num_clients=3, seed=1))
      >>> [len(share.train) for share in shares]
      [5, 3, 3]
    """
    one_of(("dirichlet", "power"), law=law)
    unused = {"dirichlet": ("exponent", exponent), "power": ("alpha", alpha)}[law]
    if unused[1] is not None:
        raise ValueError(f'{unused[0]} is not of law "{law}"; leave it out, or choose the other law')
    concentration, power = 0.5 if alpha is None else alpha, 1.0 if exponent is None else exponent
    require("> 0", alpha=concentration)
    require(">= 0", exponent=power)
    fewest = whole("min_rows", min_rows, least=1)

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        number, seed = wanted.num_clients, wanted.seed
        spare = len(train.lengths) - number * fewest
        if spare < 0:
            raise DataError(
                f"{len(train.lengths)} training rows are too few for {number} clients of at least {fewest} (quantity): "
                f"lower federated.num_clients to at most {len(train.lengths) // fewest}, or min_rows of "
                f"federated.distribution_options"
            )
        if law == "power":
            shares = np.arange(1, number + 1, dtype=np.float64) ** -power
        else:
            shares = rng.derive(seed, "partition").dirichlet(np.full(number, concentration))
        sizes = [fewest + more for more in largest_remainder(spare, shares.tolist())]

        def parts(rows: Rows, sizes: list[int]) -> list[np.ndarray]:
            return cut(rng.derive(seed, "partition order").permutation(len(rows.lengths)), sizes)

        return joined(parts(train, sizes), parts(val, largest_remainder(len(val.lengths), sizes)))

    return Partitioner(deal)
