"""What must hold in every run, whatever breaks: the invariants I1 to I12, as far as a simulation can see them.

Not here: I7 (there are no keys in it), I8 (memory), I9 (privacy is not spent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.frames import Codec
from fedmq.protocol.jobs import parse_task
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal

_TOLD = Codec(m.TO_WORKER)
_REFUSED = ("LATE", "UNKNOWN_TASK", "INVALID")


class Violation(AssertionError):
    """An invariant does not hold."""


class Witness:
    """Sees what is said and what is durable, and remembers it over every crash."""

    def __init__(self) -> None:
        #: digests that workers were told are accepted, by round and client; and rounds they were told are committed
        self.acked: dict[tuple[int, str], str] = {}
        self.promised_round = -1
        self.accepted: dict[tuple[int, str], str] = {}
        self.frozen: dict[int, list[str]] = {}
        self.committed: dict[int, str] = {}
        self.epoch = -1
        self._offered: dict[str, str] = {}

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
        _require(before == offer.blob.digest, "I4", f"{offer.task} was trained twice, with different results")

    def begun(self, worker: str, busy: list[str]) -> None:
        """A trainer is given tasks, while it still owes an answer for these."""
        _require(not busy, "I10", f"{worker} trains {', '.join(busy)} and more at the same time")

    def forgotten(self, task: str, event: Any) -> None:
        """A worker deletes an update because of this event."""
        job, final = parse_task(task)[0], _REFUSED
        if job.kind == "init":
            final = (*_REFUSED, "ACCEPTED", "DUPLICATE")
        match event:
            case we.Received(m.Committed(round)) if round >= job.round:
                return
            case we.Received(m.Verdict(of, code)) if of == task and code in final:
                return
            case we.Received(m.Cancel(of)) if of == task:
                return
        _require(False, "I10", f"{task} is deleted before its round is committed, because of {event}")

    # --- what is durable -----------------------------------------------------------------------

    def started(self, epoch: int) -> None:
        """A coordinator begins."""
        _require(epoch > self.epoch, "I6", f"epoch {epoch} after {self.epoch}")
        self.epoch = epoch

    def looks(self, journal: Journal, blobs: BlobStore | None = None) -> None:
        """Compare the journal with all that was seen and said before; with `blobs`, also what it names there."""
        accepted = {(row["round"], row["client"]): row["digest"] for row in journal.updates()}
        for key, digest in (self.accepted | self.acked).items():
            _require(accepted.get(key) == digest, "I5", f"{key} was accepted and is {accepted.get(key)}, not {digest}")
        self.accepted = accepted
        rounds = {row["round"]: row for row in journal.rounds()}
        for round, row in rounds.items():
            if row["frozen"]:
                before = self.frozen.setdefault(round, row["frozen"])
                _require(before == row["frozen"], "I2", f"round {round} was frozen as {before}, is {row['frozen']}")
                missing = [client for client in before if (round, client) not in accepted]
                _require(not missing, "I2", f"round {round} is frozen with {missing}, not accepted")
        done = {round: row["digest"] for round, row in rounds.items() if row["state"] == "committed"}
        _require(sorted(done) == list(range(len(done))), "I3", f"committed rounds have gaps: {sorted(done)}")
        for round, digest in self.committed.items():
            _require(done.get(round) == digest, "I3", f"round {round} was {digest}, is {done.get(round)}")
        _require(self.promised_round < len(done), "I5", f"{self.promised_round} was said to be committed")
        self.committed = done
        if blobs is not None and done:
            last = len(done) - 1
            named = [done[last], *(digest for (round, _), digest in accepted.items() if round > last)]
            for digest in named:
                path = blobs.path(digest)
                whole = path.is_file() and _sha256(path) == digest
                _require(whole, "I5", f"the journal names {digest[:12]}, which is not whole on disk")

    def ended(self, run_dir: Path, journal: Journal, expected: Mapping[int, str], save_every: int) -> None:
        """The run is done: it is the undisturbed one, to the bit."""
        self.looks(journal)
        _require(self.committed == dict(expected), "I4", f"{self.committed} is not {dict(expected)}")
        keys = [(row["round"], row["client"]) for row in journal.updates()]
        _require(len(keys) == len(set(keys)), "I1", "an update counts twice")
        kept = [r for r in expected if r % save_every == 0 or r == max(expected)]
        folders = {run_dir / "global_model" / f"round_{r}": expected[r] for r in kept}
        folders[run_dir / "global_model" / "round_final"] = expected[max(expected)]
        folders |= {run_dir / client / f"round_{round}": digest for (round, client), digest in self.accepted.items()}
        for folder, digest in folders.items():
            weights = folder / "adapter_model.safetensors"
            whole = weights.is_file() and _sha256(weights) == digest and (folder / "adapter_config.json").stat().st_size
            _require(bool(whole), "I5", f"checkpoint {folder.relative_to(run_dir)} is not whole")
        scored = {row["version"] for row in journal.evaluations()}
        _require(scored == set(expected), "I11", f"of {sorted(expected)} only {sorted(scored)} were evaluated")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _require(holds: bool, name: str, text: str) -> None:
    if not holds:
        raise Violation(f"{name}: {text}")
