"""How many files and connections a process of this host may have open."""

from __future__ import annotations

import resource

#: More than any run here needs. Some containers allow a thousand million, and what walks them all takes minutes.
_MOST = 1 << 16


def most_open_files() -> int:
    """What this process may have open once it asked: its hard limit, up to 65,536 (or its soft limit, if more)."""
    soft, hard = (_MOST if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE))
    return max(soft, min(hard, _MOST))


def allow_open_files() -> None:
    """Raise the soft limit, often 1,024, to `most_open_files()`; processes that are started later inherit it.

    A worker is two connections. One that is a connection too many is not refused: libzmq tries again and again to
    accept it, which keeps a core busy and every other worker out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < (most := most_open_files()):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
