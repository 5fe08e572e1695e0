"""Partitions by whose the rows are: a client is an author, or a brand that customers write to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedmq import rng
from fedmq.algorithms.options import one_of
from fedmq.algorithms.partition_shares import Partitioner, Rows, Share, Wanted
from fedmq.errors import DataError

_SMALL = ("leave_out", "group")


def by_author(small: str = "leave_out") -> Partitioner:
    """One client per author: those with at least `Wanted.min_rows` rows, most frequent first, ties by author id.

    Rows without an author are nobody's.

    Args:
      small: what becomes of authors with fewer rows. "leave_out": nothing. "group": they are put together, in
        random order, until each group has as many rows, and the groups are clients too, after those of one author; what
        is left at the end joins the last group.

    Example:
      >>> rows = Rows(np.zeros(5), {"author": ["x", "y", "x", "z", "y"]})
      >>> shares = by_author().deal(rows, rows, Wanted(num_clients=2, seed=1, min_rows=2))
      >>> [(share.owner, share.train.tolist()) for share in shares]
      [('x', [0, 2]), ('y', [1, 4])]
    """
    return _by_owner("author", small)


def by_brand(small: str = "leave_out") -> Partitioner:
    """One client per brand, as `by_author` is one per author: a tweet is of the company that it is addressed to.

    Args:
      small: as of `by_author`, of brands.
    """
    return _by_owner("brand", small)


def rows_of(owners: Sequence[str], chosen: Sequence[str]) -> list[np.ndarray]:
    """The positions of each chosen owner's rows (an empty array for one with none).

    Example:
      >>> [rows.tolist() for rows in rows_of(["x", "y", "x"], ["x", "z"])]
      [[0, 2], []]
    """
    positions: dict[str, list[int]] = {owner: [] for owner in chosen}
    for position, owner in enumerate(owners):
        if owner in positions:
            positions[owner].append(position)
    return [np.array(positions[owner], np.int64) for owner in chosen]


def _by_owner(kind: str, small: str) -> Partitioner:
    one_of(_SMALL, small=small)

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        counts = Counter(train.labels[kind])
        counts.pop("", None)
        ranked = sorted(counts, key=lambda owner: (-counts[owner], owner))
        large = [owner for owner in ranked if counts[owner] >= wanted.min_rows]
        groups = [[owner] for owner in large[: wanted.num_clients]]
        if small == "group" and len(groups) < wanted.num_clients:
            groups += _grouped(ranked[len(large) :], counts, wanted)
        if len(groups) < wanted.num_clients:
            sizes = [counts[owner] for owner in ranked]
            made = len(groups) if small == "group" else None
            raise DataError(_too_few(kind, sizes, wanted.num_clients, wanted.min_rows, made))
        groups = groups[: wanted.num_clients]
        owners = [owner for group in groups for owner in group]
        trained, held = (dict(zip(owners, rows_of(rows.labels[kind], owners), strict=True)) for rows in (train, val))

        def together(rows: dict[str, np.ndarray], group: list[str]) -> np.ndarray:
            return np.sort(np.concatenate([rows[owner] for owner in group]))

        return [
            Share(together(trained, group), together(held, group), group[0] if len(group) == 1 else None)
            for group in groups
        ]

    return Partitioner(deal, needs=(kind,), owner=kind)


def _grouped(owners: list[str], counts: Counter[str], wanted: Wanted) -> list[list[str]]:
    groups: list[list[str]] = []
    open_group: list[str] = []
    for i in rng.derive(wanted.seed, "partition").permutation(len(owners)):
        open_group.append(owners[i])
        if sum(counts[owner] for owner in open_group) >= wanted.min_rows:
            groups.append(open_group)
            open_group = []
    if groups:
        groups[-1] += open_group
    return groups


def _too_few(kind: str, counts: list[int], num_clients: int, min_rows: int, made: int | None) -> str:
    """Why, with the counts and the ways out; `made` clients came of putting small owners together."""
    eligible = sum(count >= min_rows for count in counts)
    asked = (
        f"by_{kind} needs {num_clients} {kind}s with at least {min_rows} training rows each, but {eligible} of "
        f"{len(counts)} {kind}s have that many"
    )
    if not counts:
        return f'{asked}: no row names its {kind}; use federated.data_distribution "iid" or "non_iid"'
    if made is not None:
        ways = [f"lower federated.num_clients to at most {made}"] if made else []
        ways.append(f"lower federated.min_samples_per_client (all {kind}s together have {sum(counts)} rows)")
        return f"{asked}, and small ones put together make it {made} clients: {', or '.join(ways)}"
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
    if sum(counts) >= num_clients * min_rows and len(counts) > num_clients:
        ways.append('put small ones together with federated.distribution_options {"small": "group"}')
    return f"{asked} ({largest}): {', or '.join(ways)}"
