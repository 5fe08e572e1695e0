"""Durable, atomic file writes: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmq.crash_points import durable_step
from fedmq.errors import StorageError

#: no space, quota used up, file too large, read-only, input or output error, too many open files
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
REMEDY = "put that right and give the same command again (a run: with --resume); nothing that was accepted is lost"


@contextmanager
def disk_failures(folder: Path) -> Iterator[None]:
    """What a disk refuses in the block, because it is full, read-only or broken, becomes a StorageError.

    It is not tried again: after a failed fsync nobody knows what is on the disk, but a new start finds out.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise _refused(error.filename or folder, error) from error


def _refused(where: object, error: OSError) -> StorageError:
    remedy = f": {REMEDY}" if error.errno in _DISK else ""
    return StorageError(f"{where} cannot be written ({error.strerror or error}){remedy}")


def fsync(path: Path) -> None:
    """Make a file's content, or the renames and links in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Make the content of an open file durable."""
    with durable_step():
        os.fsync(fd)


def rename(source: Path, target: Path) -> None:
    """Put a file under its name, over what is there. It is durable when the folder is synced."""
    with durable_step():
        os.replace(source, target)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, whose names survive a power cut.

    Those that are there are made durable, too: whoever made them may have been killed before they were. That is no
    durable step: where nothing is to be made durable, nothing changes.
    """
    for path in (*reversed(folder.parents), folder):
        if path.is_dir():
            _fsync_if_ours(path.parent)
        else:
            path.mkdir(exist_ok=True)
            fsync(path.parent)


def _fsync_if_ours(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # nothing in it is of our making
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # nor in one that cannot be synced, or written
            raise
    finally:
        os.close(fd)


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
            sync(file.fileno())
        rename(temp, path)
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
                rename(folder, old)
            rename(temp, folder)
        except BaseException:
            if old.is_dir() and not folder.exists():
                rename(old, folder)
            raise
        fsync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _refused(folder, error) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _sweep(folder: Path) -> None:
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.(tmp|old)")
    for path in list(folder.parent.iterdir()):
        found = name.fullmatch(path.name)
        if found is None or _runs_elsewhere(int(found[1])) or not path.is_dir():
            continue
        if found[2] == "old" and not folder.exists():
            rename(path, folder)
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
