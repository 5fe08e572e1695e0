"""The logs of a run: which there are, and the end of one. Nothing outside their folder is ever read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmq.protocol.printable import escaped, readable

_SUFFIXES = (".log", ".jsonl")
#: What is shown of a file at first, and at most at once; bytes.
_TAIL_NBYTES = 64 * 1024
#: More files than these no list helps with.
_MAX_FILES = 2000


def find_log_dir(run_dir: Path, configured: str | None, given: Path | None) -> Path | None:
    """LOG_DIR: given, or where the config has it from here, or, of a folder that was moved or copied, beside it.

    Args:
      run_dir: OUTPUT_DIR.
      configured: of the config, relative to where the run was started.
      given: by whoever watches.
    """
    if given is not None:
        return given
    name = Path(configured or "logs").name
    # Beside the run first: from here, the same name may be that of another run's.
    places = [run_dir / name, run_dir.parent / name] if name else []
    if configured:
        places.append(Path(configured))
    return next((place for place in places if place.is_dir()), None)


def log_files(folder: Path | None) -> list[dict[str, Any]]:
    """{name, size} of each log, by name; names are relative to the folder, sizes in bytes."""
    if folder is None:
        return []
    return [{"name": name, "size": path.stat().st_size} for name, path in sorted(_found(folder))][:_MAX_FILES]


def log_tail(folder: Path | None, name: str, start: int | None) -> dict[str, Any] | None:
    """{name, start, end, text} of a log: from byte `start` on, its end if None; None where there is no such log.

    Where the file is shorter than `start` it was begun anew: it is read from its beginning.
    """
    path = None if folder is None else dict(_found(folder)).get(name)
    if path is None:
        return None
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin = max(0, size - _TAIL_NBYTES) if start is None or start > size else max(start, size - _TAIL_NBYTES)
        file.seek(begin)
        content = file.read(_TAIL_NBYTES)
    if begin and begin != start and b"\n" in content:
        # It begins with a whole line.
        cut = content.index(b"\n") + 1
        begin, content = begin + cut, content[cut:]
    whole = content[: content.rfind(b"\n") + 1] or content
    return {"name": escaped(name), "start": begin, "end": begin + len(whole), "text": _shown(whole)}


def _shown(content: bytes) -> str:
    return readable(content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n"))


def _found(folder: Path) -> Iterator[tuple[str, Path]]:
    """Plain files in the folder; a link may lead out of it and is none."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(place, name)
            if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
                yield str(path.relative_to(folder)), path
