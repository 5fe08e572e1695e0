"""What a partition is given, and what it gives: positions of rows, no text and no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """The rows of one split, as far as a partition looks at them.

    Attributes:
      lengths: shape (num_rows,), int64, the characters of each text.
      labels: "author", "brand" -> whose each row is, "" where that is unknown; only what `Partitioner.needs` names.
    """

    lengths: np.ndarray
    labels: Mapping[str, Sequence[str]] = {}


class Wanted(NamedTuple):
    """What is asked of a partition.

    Attributes:
      num_clients: at least 1.
      seed: all chance derives from it.
      min_rows: by_author and by_brand: the fewest training rows of a client.
    """

    num_clients: int
    seed: int
    min_rows: int = 1


class Share(NamedTuple):
    """What one client gets.

    Attributes:
      train: positions into the training rows, int64, ascending.
      val: positions into the validation rows, likewise; there may be none.
      owner: the author or brand that the client is, where it is one.
      label_tv: by how much its training rows differ from all of them in their classes (`label_tv`), where there are
        classes.
    """

    train: np.ndarray
    val: np.ndarray
    owner: str | None = None
    label_tv: float | None = None


class Partitioner(NamedTuple):
    """A partition as a pure function.

    Attributes:
      deal: (training rows, validation rows, what is wanted) -> one share per client. No row twice; the validation rows
        by the same rule, so that a client's are like its training rows. DataError where that cannot be.
      needs: the labels that rows must have.
      owner: what one client is: "author" or "brand"; None where it is neither.
    """

    deal: Callable[[Rows, Rows, Wanted], list[Share]]
    needs: tuple[str, ...] = ()
    owner: str | None = None


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


def cut(rows: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Rows cut into pieces of these sizes, which sum to their number.

    Example:
      >>> [piece.tolist() for piece in cut(np.array([5, 6, 7]), [1, 2])]
      [[5], [6, 7]]
    """
    return np.split(rows, np.cumsum(sizes)[:-1])


def cut_equally(rows: np.ndarray, parts: int) -> list[np.ndarray]:
    """Rows cut into pieces whose sizes differ by at most 1.

    Example:
      >>> [piece.tolist() for piece in cut_equally(np.array([5, 6, 7]), 2)]
      [[5, 6], [7]]
    """
    return cut(rows, largest_remainder(len(rows), [1] * parts))


def joined(train: Sequence[np.ndarray], val: Sequence[np.ndarray]) -> list[Share]:
    """Both splits' pieces as shares, positions ascending."""
    return [Share(np.sort(rows), np.sort(held)) for rows, held in zip(train, val, strict=True)]


def label_tv(classes: np.ndarray, parts: Sequence[np.ndarray]) -> list[float]:
    """Total variation between the classes of each part and those of all rows: 1/2 sum_c |p_part(c) - p(c)|.

    0 where a part is a miniature of the whole, near 1 where it holds classes that nobody else has.

    Args:
      classes: shape (num_rows,), integers from 0.
      parts: positions of rows, none empty.

    Example:
      >>> label_tv(np.array([0, 0, 1, 1]), [np.array([0, 2]), np.array([1])])
      [0.0, 0.5]
    """
    number = int(classes.max(initial=-1)) + 1
    overall = np.bincount(classes, minlength=number) / len(classes)
    shares = (np.bincount(classes[rows], minlength=number) / len(rows) for rows in parts)
    return [float(np.abs(share - overall).sum()) / 2 for share in shares]
