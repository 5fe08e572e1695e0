"""A run that is watched: its parts, each with the number of the look that found it changed.

run.db is opened for a look and closed again, so that its writer can leave it as one plain file; whether there is
anything to look for is asked of the file system.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from fedmq.dashboard import parts
from fedmq.errors import StorageError
from fedmq.inspection import status_of
from fedmq.protocol.printable import escaped
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import global_metrics
from fedmq.storage.run_folder import DATABASE
from fedmq.storage.run_lock import RunLock
from fedmq.storage.salvage import open_to_read

_UNREADABLE = (StorageError, sqlite3.DatabaseError, OSError, KeyError, TypeError, ValueError)


class _Kept(NamedTuple):
    version: int
    text: str


class Watch:
    """The parts of one run. It is for one thread, and so is SQLite.

    Attributes:
      version: of the last look that found something.
      config: of the run.
      epoch: versions of another one mean nothing: another watch gave them, or another run was in the folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.path = run_dir, run_dir / DATABASE
        self.version, self.epoch = 0, ""
        self.config: dict[str, Any] = {}
        self._parts: dict[str, _Kept] = {}
        self._files: tuple[Any, ...] = (None, None, None, None)
        #: which file was read, and which run is in it
        self._which: tuple[Any, str | None] = (None, None)
        self._sound = False
        self._damage: list[str] = []
        self._status = ""
        self._forget()

    def first_look(self) -> None:
        """Raises:
        StorageError: the folder holds no run, one of another version, or one of which nothing can be read.
        """
        self._files = _files(self.path)
        self._look()

    def look(self) -> None:
        """Find what has changed since the last time."""
        files = _files(self.path)
        try:
            if files == self._files and not self._has_lost_its_process():
                return
            if files[0] != self._files[0]:
                self._sound = False
            self._files = files
            self._look()
        except _UNREADABLE as error:
            # What was read before stays on the page; the next change of the file is looked at with suspicion.
            self._sound = False
            self._publish({"trouble": escaped(str(error))})

    def since(self, version: int) -> str:
        """What has changed since a version, as a JSON object; 0 is everything."""
        changed = (f"{json.dumps(name)}:{kept.text}" for name, kept in self._parts.items() if kept.version > version)
        return f'{{"epoch":"{self.epoch}","version":{self.version},"parts":{{{",".join(changed)}}}}}'

    def timeline(self, first: int, last: int) -> str:
        """Spans of these rounds, as JSON.

        Raises:
          StorageError: run.db cannot be read.
        """
        try:
            with closing(self._opened()) as journal:
                return _encoded(parts.timeline_part(journal, first, last))
        except _UNREADABLE as error:
            raise StorageError(str(error)) from None

    def _forget(self) -> None:
        self._clients, self._workers = parts.Names(), parts.Names()
        self._states: dict[int, str] = {}
        self._marks: dict[str, int] = {}
        self._settled: tuple[Any, ...] = ()

    def _has_lost_its_process(self) -> bool:
        """It leaves no trace in a file."""
        return self._status == "running" and not RunLock.held(self.run_dir)

    def _opened(self) -> Journal:
        if self._sound:
            return Journal.open(self.path, read_only=True)
        journal, self._damage = open_to_read(self.path)
        self._sound = not self._damage
        # A copy of what can be read of a damaged one numbers its rows anew.
        self._marks.clear()
        return journal

    def _look(self) -> None:
        """Take in what is new: all of it, or, where something of it cannot be read, nothing."""
        with closing(self._opened()) as journal, journal.snapshot():
            # By both: what is left of a damaged file may not tell its run, and a new file may have an old one's inode.
            which = self._files[0] or self._which[0], journal.get("run") or self._which[1]
            if anew := which != self._which:
                self._forget()
            found = self._new_parts(journal)
        if anew:
            self.epoch, self._which = secrets.token_hex(4), which
            self._parts.clear()
        self._publish(found | {"trouble": None})

    def _new_parts(self, journal: Journal) -> dict[str, Any]:
        config = json.loads(journal.require("config"))
        status = status_of(journal, self.run_dir)
        found = {
            "head": parts.head_part(journal, config, status, self._damage),
            "live": parts.live_part(journal, status),
            "clients": parts.clients_part(journal, self._clients, self._workers),
        }
        settled = (status, journal.get("software"), journal.get("num_trainable"), len(self._clients))
        if settled != self._settled:
            found["settings"] = parts.settings_part(journal)
        changed, marks = journal.changes(self._marks)
        states = journal.round_states()
        rounds = changed["updates"] | {round for round, state in states.items() if state != self._states.get(round)}
        for round in rounds & states.keys():
            updates = journal.updates(round)
            found[f"round/{round}"] = parts.round_part(states[round], updates, self._clients, self._workers)
        if versions := changed["evaluations"]:
            for version, score in global_metrics(journal, min(versions)).items():
                if version in versions:
                    found[f"score/{version}"] = parts.score_part(score, self._clients)
        if changed["generations"]:
            texts = defaultdict(list)
            for row in journal.generations():
                texts[row["version"]].append(row)
            for version in changed["generations"]:
                found[f"texts/{version}"] = parts.texts_part(texts[version])
        # Last: others were named on the way.
        found["names"] = {"clients": self._clients.shown(), "workers": self._workers.shown()}
        self.config, self._status, self._settled = config, status, settled
        self._states, self._marks = states, marks
        return found

    def _publish(self, found: Mapping[str, Any]) -> None:
        for name, part in found.items():
            text, kept = _encoded(part), self._parts.get(name)
            if kept is None or kept.text != text:
                self.version += 1
                self._parts[name] = _Kept(self.version, text)


def _encoded(part: Any) -> str:
    return json.dumps(part, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _files(path: Path) -> tuple[Any, ...]:
    """What changes with each commit; the first is another when another run's database has taken the place."""
    return *_stamp(path), *_stamp(path.with_name(f"{path.name}-wal"))


def _stamp(file: Path) -> tuple[Any, Any]:
    try:
        stat = os.stat(file)
    except OSError:
        return None, None
    # Who only reads makes an empty log, too.
    return ((stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)) if stat.st_size else (None, None)
