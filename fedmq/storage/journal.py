"""run.db: the journal of a run, and the single source of truth about it.

SQLite in WAL mode with synchronous=FULL: what a method has written when it returns survives a power
cut. A row names a blob only after that blob is durable. One writer, kept out by a lock file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fedmq import atomic
from fedmq.crash_points import durable_step
from fedmq.errors import StorageError
from fedmq.storage.hosted import Hosted
from fedmq.storage.schema import SCHEMA, SCHEMA_VERSION


def _connect(path: Path, options: str) -> tuple[sqlite3.Connection, int]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database, version


class Journal:
    """Typed reads and durable writes on run.db."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._db.row_factory = sqlite3.Row

    @classmethod
    def create(cls, path: Path, meta: dict[str, str]) -> Journal:
        """A new run.db with these meta values. The file appears whole or not at all."""
        temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temp.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temp, isolation_level=None)) as database:
                database.executescript(f"PRAGMA synchronous=FULL; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION};")
                database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        except sqlite3.OperationalError as error:
            temp.unlink()
            raise StorageError(f"{path} cannot be written ({error}): {atomic.REMEDY}") from None
        atomic.rename(temp, path)
        atomic.fsync(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> Journal:
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
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{path} cannot be read ({error}): restore it from a copy, or start anew") from None
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"{path} has format {version}, this fedmq reads {SCHEMA_VERSION}: use the version it is from"
            )
        journal = cls(path, database)
        if not read_only:
            # A process that ended on a failed fsync may have left in the log what is in the kernel's memory only: at a
            # power cut, all that had been appended to it would be lost with it. So the log begins anew.
            with journal._disk("written"):
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return journal

    def close(self) -> None:
        """Close the file; the journal ends as one plain file, without a write-ahead log beside it."""
        self._db.close()

    # --- meta ----------------------------------------------------------------------------------

    def get(self, key: str) -> str | None:
        """A meta value."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0]["value"]) if rows else None

    def require(self, key: str) -> str:
        """A meta value that every run has by now."""
        value = self.get(key)
        if value is None:
            raise StorageError(f"{self.path} holds no {key}: the run ended before it had one")
        return value

    def hosted(self, client: str) -> Hosted | None:
        """What is known of a client; None before anybody has announced it."""
        value = self.get(Hosted.key(client))
        return None if value is None else Hosted.decoded(value)

    def all_hosted(self) -> dict[str, Hosted]:
        """What is known of each client."""
        prefix = Hosted.key("")
        rows = self._rows("SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", len(prefix), prefix)
        return {row["key"][len(prefix) :]: Hosted.decoded(row["value"]) for row in rows}

    def workers(self) -> set[str]:
        """Who has taken part: whoever hosts a client, or evaluated."""
        hosts = {worker for hosted in self.all_hosted().values() for worker in hosted.workers}
        return hosts | {row["worker"] for row in self.evaluations()}

    def put(self, **values: str) -> None:
        """Set meta values, all or none."""
        with self._written():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    # --- rounds --------------------------------------------------------------------------------

    def open_round(self, round: int, groups: Iterable[Sequence[str]], weights: dict[str, float] | None = None) -> None:
        """The selection is fixed: clients, in the groups that are trained together, and what each counts if it is."""
        with self._written():
            self._db.execute(
                "INSERT INTO rounds (round, state, groups, weights, opened_at) VALUES (?, 'open', ?, ?, ?)",
                (round, json.dumps([list(group) for group in groups]), json.dumps(weights), time.time()),
            )

    def draw_anew(
        self, round: int, groups: Iterable[Sequence[str]], draw: int, weights: dict[str, float] | None = None
    ) -> None:
        """The open round was abandoned, for the `draw`-th time: another selection takes the place of the old one."""
        with self._written():
            self._db.execute(
                "UPDATE rounds SET draw = ?, groups = ?, weights = ? WHERE round = ? AND state = 'open'",
                (draw, json.dumps([list(group) for group in groups]), json.dumps(weights), round),
            )

    def weights(self, round: int) -> dict[str, float] | None:
        """What each client of a round counts in the mean; None where that follows from its size."""
        ((weights,),) = self._rows("SELECT weights FROM rounds WHERE round = ?", round)
        return json.loads(weights or "null")  # type: ignore[no-any-return]

    def freeze_round(self, round: int, clients: Iterable[str]) -> None:
        """The set of updates that will be folded is fixed, for ever."""
        with self._written():
            self._db.execute(
                "UPDATE rounds SET state = 'frozen', frozen = ? WHERE round = ? AND state = 'open'",
                (json.dumps(list(clients)), round),
            )

    def commit_round(self, round: int, digest: str, optimizer: str | None = None) -> None:
        """The round's model is durable under `digest`, and what the next one starts from under `optimizer`."""
        with self._written():
            self._db.execute(
                "INSERT INTO rounds (round, state, groups, digest, optimizer, opened_at, committed_at) "
                "VALUES (?, 'committed', '[]', ?, ?, ?, ?) ON CONFLICT (round) DO UPDATE SET state = 'committed', "
                "digest = excluded.digest, optimizer = excluded.optimizer, committed_at = excluded.committed_at",
                (round, digest, optimizer, time.time(), time.time()),
            )

    def bias(self, round: int) -> float | None:
        """What averaging the LoRA factors of a round lost of its mean update; None while it is not measured."""
        ((bias,),) = self._rows("SELECT bias FROM rounds WHERE round = ?", round)
        return None if bias is None else float(bias)

    def set_bias(self, round: int, bias: float) -> None:
        """It is measured."""
        with self._written():
            self._db.execute("UPDATE rounds SET bias = ? WHERE round = ?", (bias, round))

    def rounds(self, first: int = 0) -> list[dict[str, Any]]:
        """The rounds from `first` on, oldest first; `groups`, the clients in them (`selected`), `frozen` as lists."""
        found = []
        for row in self._rows("SELECT * FROM rounds WHERE round >= ? ORDER BY round", first):
            groups = json.loads(row["groups"])
            selected = sorted(client for group in groups for client in group)
            parsed = {"groups": groups, "selected": selected, "frozen": json.loads(row["frozen"] or "[]")}
            found.append(dict(row) | parsed)
        return found

    def last_committed(self) -> int | None:
        """The newest committed round; 0 is the first adapter."""
        ((round,),) = self._rows("SELECT max(round) FROM rounds WHERE state = 'committed'")
        return None if round is None else int(round)

    def digest(self, round: int) -> str:
        """SHA-256 of a committed round's adapter file."""
        rows = self._rows("SELECT digest FROM rounds WHERE round = ? AND state = 'committed'", round)
        if not rows:
            raise StorageError(f"{self.path}: round {round} is not committed")
        return str(rows[0]["digest"])

    def optimizer(self, round: int) -> str | None:
        """SHA-256 of what was remembered after a committed round beside its model; None when that was nothing."""
        rows = self._rows("SELECT optimizer FROM rounds WHERE round = ? AND optimizer IS NOT NULL", round)
        return str(rows[0]["optimizer"]) if rows else None

    # --- what came in --------------------------------------------------------------------------

    def add_update(self, **fields: Any) -> None:
        """An update was accepted. A second one of the same round and client is an error of ours."""
        self._insert("updates", fields)

    def updates(self, round: int | None = None) -> list[dict[str, Any]]:
        """Accepted updates, by round and client."""
        where, values = ("", ()) if round is None else ("WHERE round = ?", (round,))
        rows = self._rows(f"SELECT * FROM updates {where} ORDER BY round, client", *values)  # noqa: S608
        return [dict(row) for row in rows]

    def folded(self, round: int) -> list[dict[str, Any]]:
        """The updates that a committed round is made of, by client."""
        (row,) = self.rounds(round)[:1]
        return [update for update in self.updates(round) if update["client"] in row["frozen"]]

    def last_folded(self, client: str, before: int) -> tuple[int, str] | None:
        """Round and digest of the client's newest update, of a round before `before`, that a model is made of."""
        rows = self._rows(
            "SELECT round, updates.digest, frozen FROM updates JOIN rounds USING (round) "
            "WHERE client = ? AND round < ? AND state = 'committed' ORDER BY round DESC",
            *(client, before),
        )
        return next((tuple(row)[:2] for row in rows if client in json.loads(row["frozen"])), None)

    def add_evaluation(self, **fields: Any) -> None:
        """A version was scored on one unit: sums, so that units add up by tokens. Scored again, the last counts."""
        self._insert("evaluations", fields, "OR REPLACE")

    def evaluations(self, first: int = 0) -> list[dict[str, Any]]:
        """The evaluations of versions from `first` on, by version and unit."""
        rows = self._rows("SELECT * FROM evaluations WHERE version >= ? ORDER BY version, unit", first)
        return [dict(row) for row in rows]

    def add_generations(self, version: int, prompts: Iterable[str], texts: Iterable[str]) -> None:
        """Continuations by one version, all or none."""
        with self._written():
            self._db.executemany(
                "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?)",
                [(version, i, prompt, text) for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))],
            )

    def generations(self) -> list[dict[str, Any]]:
        """All continuations, by version and position."""
        return [dict(row) for row in self._rows("SELECT * FROM generations ORDER BY version, position")]

    def add_note(self, level: str, text: str) -> None:
        """Something that a person should be able to read later."""
        with self._written():
            self._db.execute("INSERT INTO notes VALUES (?, ?, ?)", (time.time(), level, text))

    def notes(self) -> list[dict[str, Any]]:
        """All notes, oldest first."""
        return [dict(row) for row in self._rows("SELECT * FROM notes ORDER BY rowid")]

    def _insert(self, table: str, fields: dict[str, Any], conflict: str = "") -> None:
        names, marks = ", ".join(fields), ", ".join("?" * len(fields))
        with self._written():
            self._db.execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({marks})", tuple(fields.values()))  # noqa: S608

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._disk("read"):
            return self._db.execute(query, values).fetchall()

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
