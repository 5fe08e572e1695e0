"""Partitions: which rows go to which client. Index arithmetic only, no text and no files.

Every function returns positions (int64, ascending within a client) into the rows it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedmq.errors import DataError


def largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Split `total` into whole parts proportional to `shares`: floors first, then the largest remainders.

    Args:
      total: number of items, at least 0.
      shares: relative sizes, none negative, not all zero; they need not sum to 1.

    Returns:
      One count per share; they sum to `total`, and each is within 1 of its exact quota. Equal
      remainders are served in the order of the shares.

    Example:
      >>> largest_remainder(10, [1, 1, 1])
      [4, 3, 3]
      >>> largest_remainder(1372, [0.8, 0.1, 0.1])
      [1098, 137, 137]
    """
    weight = float(sum(shares))
    quotas = [total * share / weight for share in shares]
    counts = [int(quota) for quota in quotas]
    # Rounded: 1.4 - 1 is 0.3999999999999999, and float noise must decide no tie.
    by_remainder = sorted(range(len(shares)), key=lambda i: round(counts[i] - quotas[i], 9))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def iid(num_rows: int, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle the rows and deal them in equal parts; sizes differ by at most 1.

    Example:
      >>> [part.tolist() for part in iid(5, 2, np.random.default_rng(0))]
      [[2, 3, 4], [0, 1]]
    """
    return [np.sort(part) for part in _contiguous(rng.permutation(num_rows), num_clients)]


def non_iid(lengths: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Sort the rows by text length, cut 2 * num_clients chunks, give each client 2 at random; all rows are used.

    The chunks are drawn from `rng` alone, whatever the lengths: two sets of rows (training and
    validation) partitioned with equal generators give each client the same bands of length.

    Args:
      lengths: shape (num_rows,), the length of each text; rows of equal length keep their order.
      num_clients: at least 1.
      rng: consumed by one shuffle of the chunks.

    Reference: McMahan et al. 2017 (arXiv:1602.05629), section 3, where rows are sorted by label instead.

    Example:
      >>> [part.tolist() for part in non_iid(np.array([9, 1, 5, 3]), 2, np.random.default_rng(1))]
      [[1, 3], [0, 2]]
    """
    chunks = _contiguous(np.argsort(lengths, kind="stable"), 2 * num_clients)
    order = rng.permutation(2 * num_clients)
    return [np.sort(np.concatenate([chunks[a], chunks[b]])) for a, b in order.reshape(num_clients, 2)]


def by_author(authors: Sequence[str], num_clients: int, min_samples: int) -> list[tuple[str, np.ndarray]]:
    """One client per author: those with at least `min_samples` rows, most frequent first, ties by author id.

    Args:
      authors: the author of each row; "" is an unknown author, who is never a client.
      num_clients: how many authors to take.
      min_samples: the fewest rows that an author may have.

    Returns:
      `num_clients` pairs of author and positions, in order of rank.

    Raises:
      DataError: fewer than `num_clients` authors qualify; the message gives the counts and the ways out.

    Example:
      >>> [(a, rows.tolist()) for a, rows in by_author(["x", "y", "x", "z", "y"], 2, 2)]
      [('x', [0, 2]), ('y', [1, 4])]
    """
    counts = Counter(authors)
    counts.pop("", None)
    ranked = sorted(counts, key=lambda author: (-counts[author], author))
    if len(ranked) < num_clients or counts[ranked[num_clients - 1]] < min_samples:
        raise DataError(_too_few_authors([counts[author] for author in ranked], num_clients, min_samples))
    chosen = ranked[:num_clients]
    return list(zip(chosen, rows_of(authors, chosen), strict=True))


def rows_of(authors: Sequence[str], chosen: Sequence[str]) -> list[np.ndarray]:
    """The positions of each chosen author's rows (an empty array for an author with none).

    Example:
      >>> [rows.tolist() for rows in rows_of(["x", "y", "x"], ["x", "z"])]
      [[0, 2], []]
    """
    positions: dict[str, list[int]] = {author: [] for author in chosen}
    for position, author in enumerate(authors):
        if author in positions:
            positions[author].append(position)
    return [np.array(positions[author], np.int64) for author in chosen]


def _contiguous(rows: np.ndarray, parts: int) -> list[np.ndarray]:
    sizes = largest_remainder(len(rows), [1] * parts)
    return np.split(rows, np.cumsum(sizes)[:-1])


def _too_few_authors(counts: list[int], num_clients: int, min_samples: int) -> str:
    eligible = sum(count >= min_samples for count in counts)
    asked = (
        f"by_author needs {num_clients} authors with at least {min_samples} training rows each, but {eligible} of "
        f"{len(counts)} authors have that many"
    )
    if not counts:
        return f'{asked}: no row names its author; use federated.data_distribution "iid" or "non_iid"'
    largest = f"the largest has {counts[0]}"
    if len(counts) >= num_clients:
        kth = counts[num_clients - 1]
        largest += f", number {num_clients} has {kth}"
        ways = [f"lower federated.min_samples_per_client to at most {kth}"]
    else:
        # No minimum gives that many clients: both numbers must come down.
        ways = [
            f"lower federated.num_clients to at most {len(counts)} and federated.min_samples_per_client to at most "
            f"{counts[-1]}"
        ]
    if eligible:
        ways.append(f"lower federated.num_clients to at most {eligible}")
    else:
        ways.append('use federated.data_distribution "iid" or "non_iid"')
    return f"{asked} ({largest}): {', or '.join(ways)}"
