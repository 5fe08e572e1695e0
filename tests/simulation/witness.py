"""What must hold in every run, whatever breaks: the invariants I1 to I12, as far as a simulation can see them.

I8 is `budget.py`. Not here: I9 (privacy is not spent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from budget import Budget
from violation import require

from fedmq.codec import raw
from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.frames import Codec
from fedmq.protocol.jobs import parse_task
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal

_TOLD = Codec(m.TO_WORKER)
_REFUSED = ("LATE", "UNKNOWN_TASK", "INVALID")


class Witness:
    """Sees what is said and what is durable, and remembers it over every crash."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        #: digests that workers were told are accepted, by round and client; and rounds they were told are committed
        self.acked: dict[tuple[int, str], str] = {}
        self.promised_round = -1
        self.accepted: dict[tuple[int, str], str] = {}
        self.frozen: dict[int, list[str]] = {}
        self.committed: dict[int, str] = {}
        self.epoch = -1
        self._offered: dict[str, str] = {}
        #: results that the journal took of workers that may not be here, and those that it took where it had one
        self._unlawful: list[str] = []
        self._twice: list[str] = []

    # --- what is said --------------------------------------------------------------------------

    def told(self, header: bytes) -> None:
        """The coordinator says this to a worker."""
        if b"verdict" in header or b"committed" in header:
            message = _TOLD.decode(header)
            if isinstance(message, m.Committed):
                self.promised_round = max(self.promised_round, message.round)
            elif isinstance(message, m.Verdict) and message.code == "ACCEPTED":
                job, _ = parse_task(message.task)
                if job.kind == "train":
                    self.acked[job.round, job.unit] = self._offered[message.task]

    def offered(self, offer: m.Offer) -> None:
        """A worker has made this update."""
        before = self._offered.setdefault(offer.task, offer.blob.digest)
        require(before == offer.blob.digest, "I4", f"{offer.task} was trained twice, with different results")

    def begun(self, worker: str, busy: list[str]) -> None:
        """A trainer is given tasks, while it still owes an answer for these."""
        require(not busy, "I10", f"{worker} trains {', '.join(busy)} and more at the same time")

    def forgotten(self, task: str, event: Any) -> None:
        """A worker deletes an update because of this event."""
        job, final = parse_task(task)[0], _REFUSED
        if job.kind == "init":
            final = (*_REFUSED, "ACCEPTED", "DUPLICATE")
        match event:
            case we.Received(m.Committed(round=round)) if round >= job.round:
                return
            case we.Received(m.Tasks((first, *_))) if _begins_from(first.task) >= job.round:
                return
            case we.Received(m.Verdict(of, code)) if of == task and code in final:
                return
            case we.Received(m.Cancel(of)) if of == task:
                return
        require(False, "I10", f"{task} is deleted before its round is committed, because of {event}")

    # --- what is durable -----------------------------------------------------------------------

    def started(self, epoch: int) -> None:
        """A coordinator begins."""
        require(epoch > self.epoch, "I6", f"epoch {epoch} after {self.epoch}")
        self.epoch = epoch

    def watches(self, journal: Journal, lets_in: Callable[[str], bool]) -> None:
        """Be told by SQLite itself of each row that comes into the ledger, also of one that no crash lets live."""

        def comes(what: str, worker: str) -> None:
            if not lets_in(worker):
                self._unlawful.append(f"{what} by {worker}")

        database = journal._db
        database.create_function("comes", 2, comes)
        database.create_function("again", 1, self._twice.append)
        for table, what in (("updates", "NEW.round || ' ' || NEW.client"), ("evaluations", "NEW.version")):
            database.execute(
                f"CREATE TEMP TRIGGER watched_{table} AFTER INSERT ON main.{table} "
                f"BEGIN SELECT comes('{table} ' || {what}, NEW.worker); END"
            )
        database.execute(
            "CREATE TEMP TRIGGER counted BEFORE INSERT ON main.updates BEGIN SELECT again(round || ' ' || client) "
            "FROM main.updates WHERE (round, client) = (NEW.round, NEW.client); END"
        )

    def looks(self, journal: Journal, blobs: BlobStore | None = None) -> None:
        """Compare the journal with all that was seen and said before; with `blobs`, also what it names there."""
        require(not self._twice, "I1", f"accepted though there is one already: {self._twice}")
        require(not self._unlawful, "I7", f"accepted of a worker that is not allowed: {self._unlawful}")
        accepted = {(row["round"], row["client"]): row["digest"] for row in journal.updates()}
        for key, digest in (self.accepted | self.acked).items():
            require(accepted.get(key) == digest, "I5", f"{key} was accepted and is {accepted.get(key)}, not {digest}")
        self.accepted = accepted
        rounds = {row["round"]: row for row in journal.rounds()}
        for round, row in rounds.items():
            if row["frozen"]:
                before = self.frozen.setdefault(round, row["frozen"])
                require(before == row["frozen"], "I2", f"round {round} was frozen as {before}, is {row['frozen']}")
                there = sorted(client for of, client in accepted if of == round)
                require(before == there, "I2", f"round {round} is frozen as {before}, and {there} were accepted")
        done = {round: row["digest"] for round, row in rounds.items() if row["state"] == "committed"}
        require(sorted(done) == list(range(len(done))), "I3", f"committed rounds have gaps: {sorted(done)}")
        for round, digest in self.committed.items():
            require(done.get(round) == digest, "I3", f"round {round} was {digest}, is {done.get(round)}")
        require(self.promised_round < len(done), "I5", f"{self.promised_round} was said to be committed")
        self.committed = done
        if blobs is not None and done:
            last = len(done) - 1
            named = [done[last], *(digest for (round, _), digest in accepted.items() if round > last)]
            for digest in named:
                path = blobs.path(digest)
                whole = path.is_file() and _sha256(path) == digest
                require(whole, "I5", f"the journal names {digest[:12]}, which is not whole on disk")

    def ended(
        self, run_dir: Path, journal: Journal, expected: Mapping[int, str], save_every: int, encoded: bool
    ) -> None:
        """The run is done: it is the undisturbed one, to the bit."""
        self.looks(journal)
        require(self.committed == dict(expected), "I4", f"{self.committed} is not {dict(expected)}")
        kept = [r for r in expected if r % save_every == 0 or r == max(expected)]
        folders = {run_dir / "global_model" / f"round_{r}": expected[r] for r in kept}
        folders[run_dir / "global_model" / "round_final"] = expected[max(expected)]
        folders |= {run_dir / client / f"round_{round}": digest for (round, client), digest in self.accepted.items()}
        for folder, digest in folders.items():
            weights = folder / "adapter_model.safetensors"
            # An update in a codec is another file than the adapter that it leads to.
            right = encoded and "client_" in folder.parent.name
            whole = weights.is_file() and (right or _sha256(weights) == digest)
            whole = whole and raw.read_spec(weights.read_bytes()) and (folder / "adapter_config.json").stat().st_size
            require(bool(whole), "I5", f"checkpoint {folder.relative_to(run_dir)} is not whole")
        scored = {row["version"] for row in journal.evaluations()}
        require(scored == set(expected), "I11", f"of {sorted(expected)} only {sorted(scored)} were evaluated")
        told = {row["version"] for row in journal.generations()}
        require(told == set(expected), "I11", f"of {sorted(expected)} only {sorted(told)} have texts")


def _begins_from(task: str) -> int:
    """The version that a task is about, which is committed by then."""
    job, _ = parse_task(task)
    return {"init": -1, "train": job.round - 1}.get(job.kind, job.round)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
