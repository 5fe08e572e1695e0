"""Which rows of a damaged run.db are believed: those that fedmq could have written."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

_TYPES: Mapping[str, type | tuple[type, ...]] = {"TEXT": str, "INTEGER": int, "REAL": (int, float)}


class _Federated(BaseModel):
    num_rounds: int


class _Config(BaseModel):
    experiment_name: str
    federated: _Federated


class _Live(BaseModel):
    phase: str
    round: int
    round_s: float
    num_rounds: int
    awaited: list[str]
    workers: list[dict[str, Any]]


#: By table and column, and of meta by the key's first part: what is JSON there.
_JSON: Mapping[tuple[str, str], TypeAdapter[Any]] = {
    ("rounds", "groups"): TypeAdapter(list[list[str]]),
    ("rounds", "frozen"): TypeAdapter(list[str]),
    ("rounds", "started"): TypeAdapter(dict[str, int]),
    ("rounds", "weights"): TypeAdapter(dict[str, float] | None),
    ("meta", "config"): TypeAdapter(_Config),
    ("meta", "live"): TypeAdapter(_Live),
    ("meta", "data"): TypeAdapter(dict[str, Any]),
    ("meta", "decisive"): TypeAdapter(dict[str, Any]),
    ("meta", "hosted"): TypeAdapter(tuple[int, int, list[str], bool]),
    ("meta", "software"): TypeAdapter(list[dict[str, str]]),
    ("meta", "started_at"): TypeAdapter(float),
    ("meta", "num_trainable"): TypeAdapter(int),
    ("meta", "num_parameters"): TypeAdapter(int),
}
_SHA_256 = re.compile("[0-9a-f]{64}")


def believed(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
    """Whether a row is one.

    Args:
      database: with the table, empty or not: its columns say what they hold.
      table: of `fedmq.storage.schema`.
      row: by column; those that are missing are null or have their default.
    """
    for _, name, kind, required, default, key in database.execute(f"PRAGMA table_info({table})"):
        if (name in row or default is None) and not _fits(row.get(name), kind, required or key):
            return False
    values: Mapping[str, Any] = row
    if table == "meta":
        values = {"hosted" if row["key"].startswith("hosted/") else row["key"]: row["value"]}
    parses = (_parses(_JSON[table, name], text) for name, text in values.items() if (table, name) in _JSON and text)
    return _sensible(table, row) and all(parses)


def _fits(value: Any, kind: str, required: bool) -> bool:
    if value is None:
        return not required
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, float) and not math.isfinite(value))


def _sensible(table: str, row: Mapping[str, Any]) -> bool:
    if table == "rounds" and row["state"] == "committed":
        return row.get("committed_at") is not None and _SHA_256.fullmatch(row.get("digest") or "") is not None
    return table != "evaluations" or row["num_tokens"] > 0


def _parses(adapter: TypeAdapter[Any], text: str) -> bool:
    try:
        adapter.validate_json(text)
    except ValidationError:
        return False
    return True
