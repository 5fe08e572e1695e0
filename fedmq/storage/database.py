"""run.db as a file: SQLite in WAL mode with synchronous=FULL, one writer.

What a transaction has written when it ends survives a power cut.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from fedmq import atomic
from fedmq.crash_points import durable_step
from fedmq.errors import StorageError
from fedmq.storage.schema import SCHEMA, SCHEMA_VERSION


def _connect(path: Path, options: str) -> tuple[sqlite3.Connection, int]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database, version


class Database:
    """An open run.db: rows out, transactions in. `fedmq.storage.journal` says what they mean."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._db.row_factory = sqlite3.Row

    @classmethod
    def create(cls, path: Path, meta: dict[str, str]) -> Self:
        """A new run.db with these meta values. The file appears whole or not at all."""
        temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temp.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temp, isolation_level=None)) as database:
                database.executescript(f"PRAGMA synchronous=FULL; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION};")
                database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            atomic.rename(temp, path)
        except BaseException as error:
            temp.unlink(missing_ok=True)
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"{path} cannot be written ({error}): {atomic.REMEDY}") from None
            raise
        atomic.fsync(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> Self:
        """An existing run.db.

        Raises:
          StorageError: there is none, it is damaged, or a newer fedmq wrote it.
        """
        if not path.is_file():
            raise StorageError(f"{path.parent} is not a run's folder: it has no {path.name}")
        try:
            try:
                database, version = _connect(path, "mode=ro" if read_only else "mode=rw")
            except sqlite3.OperationalError:
                # Even a reader needs the files beside run.db, and where nobody may make them it is as good as carved.
                log = path.with_name(f"{path.name}-wal")
                if not read_only or (log.exists() and log.stat().st_size):
                    raise
                database, version = _connect(path, "mode=ro&immutable=1")
            if not read_only:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=FULL")
                database.execute("PRAGMA foreign_keys=ON")
                (verdict,) = database.execute("PRAGMA quick_check").fetchone()
                if verdict != "ok":
                    raise StorageError(f"{path} is damaged ({verdict}): restore it from a copy, or start anew")
        except (sqlite3.DatabaseError, UnicodeError) as error:
            raise StorageError(f"{path} cannot be read ({error}): restore it from a copy, or start anew") from None
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"{path} has format {version}, this fedmq reads {SCHEMA_VERSION}: use the version it is from"
            )
        opened = cls(path, database)
        if not read_only:
            # A process that ended on a failed fsync may have left in the log what is in the kernel's memory only: at a
            # power cut, all that had been appended to it would be lost with it. So the log begins anew.
            with opened._disk("written"):
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return opened

    def is_sound(self) -> bool:
        """Whether all pages of the file are what they should be."""
        try:
            return [tuple(row) for row in self._db.execute("PRAGMA quick_check(1)")] == [("ok",)]
        # What is wrong it may say with bytes that are no text.
        except (sqlite3.DatabaseError, UnicodeError):
            return False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read in it is of one moment, whatever a run writes meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.rollback()

    def close(self) -> None:
        """Close the file; the journal ends as one plain file, without a write-ahead log beside it."""
        self._db.close()

    def fold_log(self) -> None:
        """Bring into the file what its log has; where a reader is in the way, or the disk is full, it stays there."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _insert(self, table: str, fields: dict[str, Any], conflict: str = "") -> None:
        names, marks = ", ".join(fields), ", ".join("?" * len(fields))
        with self._written():
            self._db.execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({marks})", tuple(fields.values()))  # noqa: S608

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._disk("read"):
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                raise StorageError(f"{self.path} is damaged ({error}): restore it from a copy, or start anew") from None

    def _dicts(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows as dicts of their columns: by position, a third of the time that sqlite3.Row takes by name."""
        rows = self._rows(query, *values)
        names = rows[0].keys() if rows else []
        return [dict(zip(names, row, strict=True)) for row in rows]

    @contextmanager
    def _written(self) -> Iterator[None]:
        """One transaction, durable when the block ends.

        Raises:
          StorageError: the disk is full, read-only or failing. Nothing of the transaction is there; or the whole, at
            the next start, if the last that failed was to make it durable.
        """
        with self._disk("written"), durable_step():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield

    @contextmanager
    def _disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path} cannot be {what} ({error}): {atomic.REMEDY}") from None
