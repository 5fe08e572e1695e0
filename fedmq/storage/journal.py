"""run.db: the journal of a run, and the single source of truth about it.

What a method has written when it returns is durable. A row names a blob only after that blob is durable. One writer,
kept out by a lock file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fedmq.errors import StorageError
from fedmq.storage.database import Database
from fedmq.storage.hosted import Hosted

_GROWING: Mapping[str, str] = {"updates": "round", "evaluations": "version", "generations": "version"}


class Journal(Database):
    """Typed reads and durable writes on run.db.

    Attributes:
      clock: seconds, for the times of rounds and notes: the time of day, unless time is virtual.
    """

    clock: Callable[[], float] = staticmethod(time.time)

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

    def open_round(
        self,
        round: int,
        groups: Iterable[Sequence[str]],
        weights: dict[str, float] | None = None,
        draw: int = 0,
        started: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """The selection is fixed.

        Args:
          round: that it is of.
          groups: clients, in the groups that are trained together.
          weights: what each counts, if it is fixed.
          draw: how often there was another selection, whose place this one takes.
          started: clients whose training began in an earlier round, with that round.
        """
        drawn = (json.dumps([list(group) for group in groups]), json.dumps(weights), json.dumps(dict(started)), draw)
        with self._written():
            if draw:
                self._db.execute(
                    "UPDATE rounds SET groups = ?, weights = ?, started = ?, draw = ? "
                    "WHERE round = ? AND state = 'open'",
                    (*drawn, round),
                )
            else:
                self._db.execute(
                    "INSERT INTO rounds (groups, weights, started, draw, round, state, opened_at) "
                    "VALUES (?, ?, ?, ?, ?, 'open', ?)",
                    (*drawn, round, self.clock()),
                )

    def weights(self, round: int) -> dict[str, float] | None:
        """What each client of a round counts in the mean; None where that follows from its size."""
        ((weights,),) = self._rows("SELECT weights FROM rounds WHERE round = ?", round)
        return json.loads(weights or "null")  # type: ignore[no-any-return]

    def freeze_round(self, round: int, clients: Iterable[str]) -> None:
        """The set of updates that will be folded is fixed, for ever."""
        with self._written():
            self._db.execute(
                "UPDATE rounds SET state = 'frozen', frozen = ?, frozen_at = ? WHERE round = ? AND state = 'open'",
                (json.dumps(list(clients)), self.clock(), round),
            )

    def commit_round(
        self,
        round: int,
        digest: str,
        optimizer: str | None = None,
        delta: str | None = None,
        merged: str | None = None,
    ) -> None:
        """The model is durable under `digest`, what goes with it under the others: SHA-256, None where there is none.

        Args:
          round: whose model it is.
          digest: of the adapter.
          optimizer: of what the next round starts from beside it.
          delta: of what leads to it from the version before.
          merged: of what this round adds to the base.
        """
        with self._written():
            self._db.execute(
                "INSERT INTO rounds (round, state, groups, digest, optimizer, delta, merged, opened_at, committed_at) "
                "VALUES (:round, 'committed', '[]', :digest, :optimizer, :delta, :merged, :at, :at) "
                "ON CONFLICT (round) DO UPDATE SET state = 'committed', digest = :digest, optimizer = :optimizer, "
                "delta = :delta, merged = :merged, committed_at = :at",
                {"round": round, "digest": digest, "optimizer": optimizer, "delta": delta, "merged": merged}
                | {"at": self.clock()},
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
        """The rounds from `first` on, oldest first, with what is JSON in them parsed; `selected`: the clients."""
        found = []
        for row in self._dicts("SELECT * FROM rounds WHERE round >= ? ORDER BY round", first):
            groups = json.loads(row["groups"])
            selected = sorted(client for group in groups for client in group)
            parsed = {"groups": groups, "selected": selected}
            parsed |= {"frozen": json.loads(row["frozen"] or "[]"), "started": json.loads(row["started"] or "{}")}
            found.append(row | parsed)
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

    def links(self, version: int) -> list[str]:
        """SHA-256 of what was merged into the base of a committed version, oldest first."""
        rows = self._rows("SELECT merged FROM rounds WHERE round <= ? AND merged IS NOT NULL ORDER BY round", version)
        return [str(row["merged"]) for row in rows]

    # --- what came in --------------------------------------------------------------------------

    def add_update(self, **fields: Any) -> None:
        """An update was accepted in a round, of a training `started` in that one or before.

        A second one of the same round and client is an error of ours.
        """
        self._insert("updates", fields | {"received_at": self.clock()})

    def updates(self, round: int | None = None) -> list[dict[str, Any]]:
        """Accepted updates, by round and client."""
        where, values = ("", ()) if round is None else ("WHERE round = ?", (round,))
        return self._dicts(f"SELECT * FROM updates {where} ORDER BY round, client", *values)  # noqa: S608

    def folded(self, round: int) -> list[dict[str, Any]]:
        """The updates that a committed round is made of, by client."""
        (row,) = self.rounds(round)[:1]
        return [update for update in self.updates(round) if update["client"] in row["frozen"]]

    def last_folded(self, client: str, before: int) -> tuple[int, str] | None:
        """The client's newest update that a model of a round before `before` is made of: in which it began, digest."""
        rows = self._rows(
            "SELECT updates.started, updates.digest, frozen FROM updates JOIN rounds USING (round) "
            "WHERE client = ? AND round < ? AND state = 'committed' ORDER BY round DESC",
            *(client, before),
        )
        return next((tuple(row)[:2] for row in rows if client in json.loads(row["frozen"])), None)

    def add_evaluation(self, **fields: Any) -> None:
        """A version was scored on one unit: sums, so that units add up by tokens. Scored again, the last counts."""
        self._insert("evaluations", fields | {"received_at": self.clock()}, "OR REPLACE")

    def evaluations(self, first: int = 0) -> list[dict[str, Any]]:
        """The evaluations of versions from `first` on, by version and unit."""
        return self._dicts("SELECT * FROM evaluations WHERE version >= ? ORDER BY version, unit", first)

    def add_generations(self, version: int, prompts: Iterable[str], texts: Iterable[str]) -> None:
        """Continuations by one version, all or none."""
        with self._written():
            self._db.executemany(
                "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?)",
                [(version, i, prompt, text) for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))],
            )

    def generations(self) -> list[dict[str, Any]]:
        """All continuations, by version and position."""
        return self._dicts("SELECT * FROM generations ORDER BY version, position")

    def add_note(self, level: str, text: str) -> None:
        """Something that a person should be able to read later."""
        with self._written():
            self._db.execute("INSERT INTO notes VALUES (?, ?, ?)", (self.clock(), level, text))

    def notes(self) -> list[dict[str, Any]]:
        """All notes, oldest first."""
        return self._dicts("SELECT * FROM notes ORDER BY rowid")

    # --- what is new in it ---------------------------------------------------------------------

    def round_states(self) -> dict[int, str]:
        """Each round's state: open, frozen or committed."""
        return {row["round"]: row["state"] for row in self._rows("SELECT round, state FROM rounds")}

    def changes(self, since: Mapping[str, int]) -> tuple[dict[str, set[int]], dict[str, int]]:
        """Which rounds or versions have rows since the last look, by table; and the marks to look with the next time.

        A row that is written again is a new one.

        Args:
          since: the marks of the last look; empty at the first.
        """
        found, marks = dict[str, set[int]](), dict[str, int]()
        for table, column in _GROWING.items():
            rows = self._rows(f"SELECT DISTINCT {column} FROM {table} WHERE rowid > ?", since.get(table, 0))  # noqa: S608
            found[table] = {row[0] for row in rows}
            ((newest,),) = self._rows(f"SELECT max(rowid) FROM {table}")  # noqa: S608
            marks[table] = newest or 0
        return found, marks
