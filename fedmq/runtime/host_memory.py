"""How much memory a process on this host may still take: the machine's, or less where a container has a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class HostMemory(NamedTuple):
    """In bytes. `limit`: "machine", or the file that says less."""

    total: int
    available: int
    limit: str


def host_memory(root: Path = Path("/")) -> HostMemory | None:
    """What there is; None where there is no /proc/meminfo (Linux has it).

    Args:
      root: of the file system with proc and sys.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    found = HostMemory(kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024, "machine")
    for file, limit, used in _limits(root):
        # The page cache counts as used there, and gives way.
        left = max(0, limit - used)
        if limit < found.total:
            found = found._replace(total=limit, limit=str(file))
        found = found._replace(available=min(found.available, left))
    return found


def _limits(root: Path) -> Iterator[tuple[Path, int, int]]:
    """(file, limit, used) of each group of processes, of version 1 or 2, that this process is in, and that has one."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = top / path.lstrip("/")
        # In a container its own group is the top, whatever the path says.
        for place in dict.fromkeys([folder, *folder.parents, top]):
            if place != top and top not in place.parents:
                continue
            try:
                limit, used = ((place / name).read_text().strip() for name in names)
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if limit.isdigit():
                yield place / names[0], int(limit), int(used) - int(stat.get("inactive_file", 0))
