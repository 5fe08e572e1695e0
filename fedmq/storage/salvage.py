"""A run.db to be looked at, also when it is damaged or half copied: then what can still be read of it.

SQLite reads a table up to the first page that is damaged; read backwards, up to the last. Both parts go into a journal
in memory, which is then read as any other. Where nothing is left of run.db, the files derived from it are.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from fedmq.errors import StorageError
from fedmq.storage.journal import Journal
from fedmq.storage.schema import SCHEMA, SCHEMA_VERSION

_TABLES: Mapping[str, str] = dict.fromkeys(("rounds", "updates", "evaluations", "generations", "notes"), "rowid") | {
    "meta": "key"
}
#: No longer file is believed in.
_MAX_NBYTES = 1 << 32
_MAGIC, _VERSION_AT = b"SQLite format 3\0", slice(60, 64)
#: What reading a journal raises whose pages are whole and hold what fedmq does not write.
_NONSENSE = (StorageError, ValueError, TypeError, KeyError, ZeroDivisionError)
T = TypeVar("T")


def read(path: Path, reader: Callable[[Journal], T]) -> tuple[T, list[str]]:
    """What a function makes of a run's journal, and what is wrong with that, a line each: none where it is sound.

    It sees the journal of one moment, though the run goes on.

    Raises:
      StorageError: as `open_to_read` does.
    """
    journal, damage = open_to_read(path)
    try:
        with journal.snapshot():
            return reader(journal), damage
    except _NONSENSE:
        if damage:
            raise
        saved, damage = _salvaged(path)
        try:
            # Where each row is one that fedmq writes, the error is of something else.
            if len(damage) == 1:
                raise
            return reader(saved), damage
        finally:
            saved.close()
    finally:
        journal.close()


def open_to_read(path: Path) -> tuple[Journal, list[str]]:
    """The journal of a run, and what is wrong with it, a line each: none where it is sound.

    Raises:
      StorageError: there is no run, it is of another version, or nothing of it can be read.
    """
    try:
        journal = Journal.open(path, read_only=True)
    except StorageError:
        if not _is_damaged(path):
            raise
    else:
        if journal.is_sound():
            return journal, []
        journal.close()
    return _salvaged(path)


def _salvaged(path: Path) -> tuple[Journal, list[str]]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(SCHEMA)
    journal, lines = Journal(path, database), list(_copy(path, database))
    no_rounds = not database.execute("SELECT count(*) FROM rounds").fetchone()[0]
    if no_rounds or any(line.startswith(("updates:", "evaluations:")) for line in lines):
        lines += _from_metrics(path.parent, database, no_rounds)
    if journal.get("config") is None:
        config = {"key": "config", "value": json.dumps(_json(path.parent / "config.json"))}
        if _put(database, "meta", config):
            lines.append("the config is that of config.json")
    if journal.get("config") is None:
        journal.close()
        raise StorageError(
            f"{path} is missing or damaged, and nothing of its run can be read: copy the folder again, as a whole and "
            "when no coordinator writes to it"
        )
    return journal, lines


def _is_damaged(path: Path) -> bool:
    """Rather than of another version, or no run's."""
    if not path.is_file():
        return (path.parent / "training_metrics.json").is_file()
    try:
        with open(path, "rb") as file:
            head = file.read(100)
    except OSError:
        return False
    version = int.from_bytes(head[_VERSION_AT])
    return not head.startswith(_MAGIC) or version in (0, SCHEMA_VERSION)


def _copy(path: Path, into: sqlite3.Connection) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} is not there: the copy of this folder is not whole"
        return
    yield f"{path.name} is damaged, or its copy is not whole: restore it if the run is to go on"
    # SQLite opens no file that is shorter than it says, so what is missing is made up with zeros, in a copy.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copyfile(path, copy)
        log = path.with_name(f"{path.name}-wal")
        if log.is_file():
            shutil.copyfile(log, copy.with_name(log.name))
        if copy.stat().st_size < (size := _stated_size(copy)):
            os.truncate(copy, size)
        try:
            with closing(sqlite3.connect(copy)) as source:
                # A row with bytes that are no text is none of ours: it goes into no table.
                source.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()
                for table, key in _TABLES.items():
                    if (line := _copy_table(source, into, table, key)) is not None:
                        yield line
        except (sqlite3.DatabaseError, UnicodeError):
            yield "nothing of it can be read"


def _stated_size(path: Path) -> int:
    """How long a database says it is, in bytes: its pages' size and number are in its header."""
    with open(path, "rb") as file:
        head = file.read(32)
    if not head.startswith(_MAGIC) or len(head) < 32:
        return 0
    page = int.from_bytes(head[16:18])
    return min((65536 if page == 1 else page) * int.from_bytes(head[28:32]), _MAX_NBYTES)


def _copy_table(source: sqlite3.Connection, into: sqlite3.Connection, table: str, key: str) -> str | None:
    names = [row[1] for row in into.execute(f"PRAGMA table_info({table})")]
    whole = True
    for order in ("ASC", "DESC"):
        try:
            for row in source.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {key} {order}"):  # noqa: S608
                whole &= _put(into, table, dict(zip(names, row, strict=True)))
        except (sqlite3.DatabaseError, UnicodeError):
            whole = False
        if whole:
            return None
    (count,) = into.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return f"{table}: {count} rows could be read, the others not"


def _put(into: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
    """Whether the row makes sense."""
    # Its parsers take a while to make, and a sound run needs none.
    from fedmq.storage.belief import believed

    if not believed(into, table, row):
        return False
    try:
        marks = ", ".join("?" * len(row))
        into.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
    except (ValueError, sqlite3.DatabaseError):
        return False
    return True


def _from_metrics(folder: Path, into: sqlite3.Connection, rounds: bool) -> Iterator[str]:
    """Updates, scores and, if asked for, rounds that are not there yet, as far as the derived files have them.

    They have no times: beside rounds that were read, one of them would have begun in 1970.
    """
    metrics, scores = _json(folder / "training_metrics.json"), _json(folder / "global_metrics.json")
    if not isinstance(metrics, dict):
        return
    try:
        for row in metrics["round_metrics"]:
            clients = row["client_metrics"]
            names = json.dumps([client["client_id"] for client in clients])
            values = {"round": row["round"], "state": "committed", "groups": json.dumps([row["selected_clients"]])}
            values |= {"frozen": names, "digest": row["digest"], "bias": row["aggregation_bias"]}
            if rounds:
                _put(into, "rounds", values | {"opened_at": 0.0, "committed_at": row["seconds"]})
            for client in clients:
                _put(into, "updates", _update(client))
        for score in scores or []:
            for unit, own in (score.get("clients") or {"test": score}).items():
                values = {"version": score["round"], "unit": unit, "worker": "", "seconds": 0.0, "received_at": 0.0}
                counts = {name: own[name] for name in ("num_tokens", "num_examples")}
                _put(into, "evaluations", values | counts | {"loss_sum": own["eval_loss"] * own["num_tokens"]})
        _put(into, "meta", {"key": "config", "value": json.dumps(metrics["config"])})
    except (KeyError, TypeError):
        yield "training_metrics.json could be read in part only"
        return
    yield "what is missing of rounds and scores is from training_metrics.json and global_metrics.json"


def _update(client: Mapping[str, Any]) -> dict[str, Any]:
    same = ("num_tokens", "num_steps", "train_loss", "train_seconds", "bytes_up", "bytes_down", "state_lost", "round")
    return {name: client[name] for name in same} | {
        "client": client["client_id"],
        "started": client["round"] - client["staleness"],
        "worker": client["worker_id"],
        "digest": "",
        "num_examples": client["train_samples"],
        "norm": client["update_norm"],
        "received_at": 0.0,
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
