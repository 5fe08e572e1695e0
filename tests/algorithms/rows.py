"""Rows to be dealt, and what every partition must keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq.algorithms.partition_shares import Partitioner, Rows, Share, Wanted


def rows(lengths: Sequence[int], **labels: Sequence[str]) -> Rows:
    return Rows(np.array(lengths, np.int64), labels)


def deal(rule: Partitioner, train: Rows, val: Rows, num_clients: int, seed: int = 1, min_rows: int = 1) -> list[Share]:
    """The shares, which must be the same again: disjoint, ascending, of int64."""
    shares = rule.deal(train, val, Wanted(num_clients, seed, min_rows))
    again = rule.deal(train, val, Wanted(num_clients, seed, min_rows))
    assert len(shares) == len(again) == num_clients
    for split, given in ((0, train), (1, val)):
        parts = [share[split] for share in shares]
        dealt = np.concatenate(parts)
        assert dealt.dtype == np.int64
        assert len(set(dealt.tolist())) == len(dealt) and set(dealt.tolist()) <= set(range(len(given.lengths)))
        for part, other in zip(parts, again, strict=True):
            assert (np.diff(part) > 0).all() and part.tolist() == other[split].tolist()
    return shares


def everything(shares: Sequence[Share], train: Rows, val: Rows) -> None:
    """All rows of both splits are dealt."""
    for split, given in ((0, train), (1, val)):
        assert sorted(np.concatenate([share[split] for share in shares]).tolist()) == list(range(len(given.lengths)))
