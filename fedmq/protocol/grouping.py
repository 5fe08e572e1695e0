"""Which clients of a round are trained together, in one step of one worker: their group.

The numbers of a training depend in their last bits on what is computed beside it. So a group is a
matter of the selection, and never of who is free at the moment: the same round has the same groups
whichever workers train it, and again after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

#: Beyond this many clients in one step, measured, nothing is gained.
AUTO_MAX = 16
#: Tokens in one step from which on a device has enough to do.
AUTO_TOKENS = 512
#: A round is cut into at least so many groups, so that several workers have something to do.
AUTO_GROUPS = 4


class Size(NamedTuple):
    """What a worker announced of a client's data."""

    num_examples: int
    num_tokens: int


def automatic(sizes: Collection[Size], batch_size: int, cohort: int) -> int:
    """Clients in one step, so that a step has enough tokens for a device to be busy.

    The number of workers plays no part: with another number of them the groups are the same.

    Args:
      sizes: of the selected clients, as far as they are known.
      batch_size: examples of one client in one step.
      cohort: clients of the round.

    Example:
      >>> automatic([Size(num_examples=4, num_tokens=100)] * 50, batch_size=8, cohort=50)
      5
      >>> automatic([Size(num_examples=500, num_tokens=12_500)] * 50, batch_size=16, cohort=50)
      1
    """
    steps = sorted(min(batch_size, size.num_examples) * size.num_tokens / max(1, size.num_examples) for size in sizes)
    tokens_per_step = sum(steps) / max(1, len(steps))
    return max(1, min(AUTO_MAX, int(AUTO_TOKENS // max(1.0, tokens_per_step)), cohort // AUTO_GROUPS))


def chunks(clients: Iterable[str], hosts: Mapping[str, Collection[str]], size: int) -> list[tuple[str, ...]]:
    """Cut the selected clients into groups of at most `size` that share their hosts.

    Whoever hosts one client of a group hosts all of them, so a group can be trained as long as one of
    its hosts is there. A client whose hosts nobody knows yet is a group of its own.

    Args:
      clients: selected, each once.
      hosts: client -> the workers that host it.
      size: at least 1.

    Example:
      >>> chunks(["d", "c", "b", "a"], {"a": ["w"], "b": ["w"], "c": ["v"], "d": ["w"]}, 2)
      [('a', 'b'), ('c',), ('d',)]
    """
    alike: dict[frozenset[str], list[str]] = {}
    alone = []
    for client in sorted(clients):
        if who := frozenset(hosts.get(client, ())):
            alike.setdefault(who, []).append(client)
        else:
            alone.append((client,))
    cut = [tuple(some[start : start + size]) for some in alike.values() for start in range(0, len(some), size)]
    return sorted([*cut, *alone])
