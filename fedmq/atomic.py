"""Durable, atomic file writes: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmq.errors import StorageError


def fsync(path: Path) -> None:
    """Make a file's content, or the renames and links in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, whose names survive a power cut.

    One that is there is made durable, too: whoever made it may have been killed before it was.
    """
    missing = [path for path in folder.parents if not path.is_dir()]
    for path in (*reversed(missing), folder):
        path.mkdir(exist_ok=True)
        fsync(path.parent)


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write `content` so that `path` holds either the old or the whole new content, also after a power cut.

    Args:
      path: the file.
      content: all of it.
      mode: of the new file; None is what the umask leaves.
    """
    if not path.parent.is_dir():
        make_folder(path.parent)
    # The process id keeps two writers apart; a temp file that a crash left is overwritten or harmless.
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temp, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write indented JSON with sorted-as-given keys and a final newline. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(), mode)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place, durably, when the block ends without an error.

    What the block puts into it is to be durable by then, as what `write_bytes` wrote is. What a process that is
    gone left half done is put right first.

    Raises:
      StorageError: the files cannot be written or renamed.
    """
    folder = folder.absolute()
    temp = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        if not folder.parent.is_dir():
            make_folder(folder.parent)
        _sweep(folder)
        temp.mkdir()
        yield temp
        fsync(temp)
        # A folder cannot be renamed onto a full one. A crash between the two renames leaves the old one as `old`.
        try:
            if folder.is_dir():
                os.rename(folder, old)
            os.rename(temp, folder)
        except BaseException:
            if old.is_dir() and not folder.exists():
                os.rename(old, folder)
            raise
        fsync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _sweep(folder: Path) -> None:
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.(tmp|old)")
    for path in list(folder.parent.iterdir()):
        found = name.fullmatch(path.name)
        if found is None or _runs_elsewhere(int(found[1])) or not path.is_dir():
            continue
        if found[2] == "old" and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path)


def _runs_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
