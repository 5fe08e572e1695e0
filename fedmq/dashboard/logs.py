"""The logs of a run: which there are, and the end of one. Nothing outside their folder is ever read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmq.protocol.printable import readable

_SUFFIXES = (".log", ".jsonl")
#: What is shown of a file at first, and at most at once; bytes.
_TAIL_NBYTES = 64 * 1024
#: More files than these no list helps with.
_MAX_FILES = 2000


def find_log_dir(run_dir: Path, config: Mapping[str, Any], given: Path | None) -> Path | None:
    """LOG_DIR: given, or the config's, or, of a run that was moved or copied, one of that name in it or beside it.

    The config's own only where the run lies where it was made: a folder that somebody sent may name any place here.

    Args:
      run_dir: OUTPUT_DIR.
      config: of the run; its paths are relative to where it was started.
      given: by whoever watches.
    """
    if given is not None:
        return given
    configured = Path(str(config.get("log_dir", "")))
    places = [run_dir / configured.name, run_dir.parent / configured.name] if configured.name else []
    if os.path.abspath(str(config.get("output_dir"))) == os.path.abspath(run_dir):
        places.insert(0, configured)
    return next((place for place in places if place.is_dir()), None)


def log_files(folder: Path | None) -> list[str]:
    """The names of the logs, relative to the folder."""
    return [] if folder is None else sorted(name for name, _ in _found(folder))[:_MAX_FILES]


def log_tail(folder: Path | None, name: str, start: int | None) -> dict[str, Any] | None:
    """{start, end, text} of a log: from byte `start` on, its end if None; None where there is no such log.

    Where the file is shorter than `start` it was begun anew: it is read from its beginning.
    """
    path = None if folder is None else dict(_found(folder)).get(name)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size - _TAIL_NBYTES) if start is None or start > size else max(start, size - _TAIL_NBYTES)
            file.seek(begin)
            content = file.read(_TAIL_NBYTES)
    except FileNotFoundError:
        return None
    if begin and begin != start and b"\n" in content:
        # It begins with a whole line.
        cut = content.index(b"\n") + 1
        begin, content = begin + cut, content[cut:]
    whole = content[: content.rfind(b"\n") + 1] or content
    return {"start": begin, "end": begin + len(whole), "text": _shown(whole)}


def _shown(content: bytes) -> str:
    return readable(content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n"))


def _found(folder: Path) -> Iterator[tuple[str, Path]]:
    """Plain files in the folder, under names that can be shown. A link may lead out of it: it is none."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(place, name)
            shown = str(path.relative_to(folder))
            if path.suffix in _SUFFIXES and shown.isprintable() and path.is_file() and not path.is_symlink():
                yield shown, path
