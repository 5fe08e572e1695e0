"""A simulated disk: real files, of which a power cut leaves what was fsynced, and by chance some of the rest.

A folder is remembered as it was at its last fsync and after each change since: a power cut leaves one of these
states, so a rename is undone or not, but never half done. A file keeps what it held at its last fsync, and perhaps
a part of what was written since. SQLite's files are taken as they are: it makes its commits durable by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

#: name -> inode, and whether it is a folder
Listing = dict[str, tuple[int, bool]]
#: path relative to the root -> its inode, and its content; None for a folder
Tree = dict[str, tuple[int, bytes | None]]
TABLES = ("updates", "rounds", "evaluations", "notes", "meta")
CHANGES = ("fsync", "replace", "link", "unlink", "mkdir")
#: What a process may be killed before or after.
STEPS = (*CHANGES, *(f"commit to {table}" for table in TABLES))


class Killed(BaseException):
    """The process is gone, in the middle of what it did."""


class Disk:
    """The files of one host.

    Args:
      root: its folder; nothing above it is ever lost.
      step: called before and after each change; it may raise, and then nothing comes after.
    """

    def __init__(self, root: Path, step: Callable[[str], None]) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.step = root.resolve(), step
        self.lost: Counter[str] = Counter()
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, list[Listing]] = {}
        #: open descriptors, so that the inode of a file that was deleted is not given to another
        self._held: list[int] = []
        self.databases: list[sqlite3.Connection] = []
        self.settle()

    def holds(self, path: Any) -> bool:
        """Whether this path is on this disk."""
        return os.fspath(path).startswith(f"{self.root}{os.sep}") or os.fspath(path) == str(self.root)

    def settle(self) -> None:
        """All that is here is durable."""
        self.close()
        self._files, self._folders = {}, {}
        for path in [self.root, *self.root.rglob("*")]:
            self._keep(path)

    def close(self) -> None:
        """Let go of the files."""
        for fd in self._held:
            os.close(fd)
        self._held = []

    def abandon(self) -> None:
        """The process that had databases open is no more: what it had not committed is rolled back."""
        for database in self.databases:
            database.close()
        self.databases = []

    # --- what the processes do -----------------------------------------------------------------

    def synced(self, path: Path) -> None:
        """It was fsynced."""
        self._keep(path)

    def made(self, folder: Path) -> None:
        """A new folder: empty, and its name not yet durable."""
        self._folders[folder.stat().st_ino] = [{}]

    def changed(self, folder: Path) -> None:
        """A name in this folder came, went, or stands for something else."""
        self._folders.setdefault(folder.stat().st_ino, [{}]).append(_listing(folder))

    def _keep(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._folders[inode] = [_listing(path)]
        else:
            self._files[inode] = path.read_bytes()
            self._held.append(os.open(path, os.O_RDONLY))

    # --- what is left of it --------------------------------------------------------------------

    def survivors(self, dice: Random | None) -> Tree:
        """What is on the disk after a power cut; without `dice`, after a kill: all that was written."""
        there = {path.stat().st_ino: path for path in sorted(self.root.rglob("*"))}
        if dice is None:
            return {
                str(path.relative_to(self.root)): (path.stat().st_ino, None if path.is_dir() else path.read_bytes())
                for path in sorted(self.root.rglob("*"))
            }
        tree: Tree = {}
        self._fall(self.root.stat().st_ino, "", {self.root.stat().st_ino: self.root, **there}, dice, tree)
        return tree

    def _fall(self, inode: int, name: str, there: dict[int, Path], dice: Random, tree: Tree) -> None:
        states = [*self._folders.get(inode, [{}]), *([_listing(there[inode])] if inode in there else [])]
        chosen = dice.choice([states[0], states[0], states[-1], dice.choice(states)])
        if chosen != states[-1]:
            self.lost["names"] += 1
        for entry, (child, is_folder) in sorted(chosen.items()):
            path = f"{name}/{entry}".lstrip("/")
            if is_folder:
                tree[path] = (child, None)
                self._fall(child, path, there, dice, tree)
            elif is_database(entry):
                if child in there:
                    tree[path] = (child, there[child].read_bytes())
            else:
                tree[path] = (child, self._content(child, there.get(child), dice))

    def _content(self, inode: int, path: Path | None, dice: Random) -> bytes:
        durable = self._files.get(inode)
        written = path.read_bytes() if path is not None else durable or b""
        if written == durable:
            return written
        if durable is not None and not written.startswith(durable):
            return dice.choice([durable, written])
        torn = written[: dice.choice([len(durable or b""), dice.randint(len(durable or b""), len(written))])]
        if torn != written:
            self.lost["content"] += 1
        return torn

    def restore(self, tree: Tree) -> None:
        """Make the folder what the process, when it died, left behind: what came after never happened."""
        for path in sorted(self.root.rglob("*"), reverse=True):
            name = str(path.relative_to(self.root))
            if is_database(path.name):
                # Whoever had it open has closed it by now, and its write-ahead log is in it.
                if name.removesuffix("-wal").removesuffix("-shm") not in tree:
                    path.unlink()
            elif path.is_dir():
                if tree.get(name, (0, b""))[1] is not None:
                    shutil.rmtree(path)
            elif name not in tree or tree[name][1] != path.read_bytes():
                path.unlink()
        for name, (_, content) in sorted(tree.items()):
            path = self.root / name
            if content is None:
                path.mkdir(exist_ok=True)
            elif not path.exists() and not name.endswith(("-wal", "-shm")):
                path.write_bytes(content)


def is_database(name: str) -> bool:
    """Whether SQLite looks after this file."""
    return "run.db" in name


def _listing(folder: Path) -> Listing:
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir()) for entry in entries}


@contextlib.contextmanager
def intercepted(current: Callable[[], Disk | None]) -> Iterator[None]:
    """While the block runs, `os` tells the disk whose host's code runs of every change of its files."""
    listdir = os.listdir
    with contextlib.ExitStack() as patches:
        for name in CHANGES:
            patches.enter_context(mock.patch.object(os, name, _told(name, getattr(os, name), current)))
        # The order of a folder's entries is the file system's own affair: here it is always the same.
        patches.enter_context(mock.patch.object(os, "listdir", lambda *args: sorted(listdir(*args))))
        connect = functools.partial(sqlite3.connect, factory=_database(current))
        patches.enter_context(mock.patch.object(sqlite3, "connect", connect))
        yield


def _told(name: str, real: Callable[..., Any], current: Callable[[], Disk | None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        disk = current()
        if disk is None or kwargs.get("dir_fd") is not None:
            return real(*args, **kwargs)
        if name == "fsync":
            path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
        else:
            path = Path(os.fspath(args[-1] if name in ("replace", "link") else args[0]))
        if not disk.holds(path):
            return real(*args, **kwargs)
        disk.step(f"before {name}")
        if name == "fsync":
            disk.synced(path)
        else:
            real(*args, **kwargs)
            if name == "mkdir":
                disk.made(path)
            folders = {path.parent} | ({Path(os.fspath(args[0])).parent} if name == "replace" else set())
            for folder in folders:
                disk.changed(folder)
        disk.step(f"after {name}")
        return None

    return call


def _database(current: Callable[[], Disk | None]) -> type[sqlite3.Connection]:
    class Database(sqlite3.Connection):
        """Its commits are steps, too."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if (disk := current()) is not None:
                disk.databases.append(self)

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            disk = current()
            if disk is None or not sql.startswith(("INSERT", "UPDATE")):
                return super().execute(sql, *args)
            table = re.split(r"INTO |UPDATE ", sql)[1].split()[0]
            disk.step(f"before commit to {table}")
            cursor = super().execute(sql, *args)
            disk.step(f"after commit to {table}")
            return cursor

        def __exit__(self, *raised: Any) -> Any:
            disk = current()
            if disk is not None and raised[0] is None:
                disk.step("before commit to meta")
            super().__exit__(*raised)
            if disk is not None and raised[0] is None:
                disk.step("after commit to meta")

    return Database
