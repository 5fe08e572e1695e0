"""A run's committed rounds, on their way to metrics.jsonl and to trackers: read from run.db, never in the way of it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fedmq import atomic
from fedmq.errors import StorageError
from fedmq.runtime.view import View
from fedmq.storage.journal import Journal
from fedmq.tracking.backends import BY_NAME
from fedmq.tracking.committed_rounds import lines, rows, scalars
from fedmq.tracking.tracker import About, Tracker, flat

log = logging.getLogger("fedmq.tracking")
LINES, FOLDER = "metrics.jsonl", "tracking"
#: What trackers may take at the end of a run.
_PATIENCE_S = 15.0


class Follower:
    """A view of a run that passes on what it is told, and follows the rounds.

    Each tracker works in a thread of its own: the coordinator waits for none, but at the end, and no longer than
    `_PATIENCE_S`. One that fails is left out from there on, with one warning.

    Args:
      view: who watches the run.
      journal: of the run; read in the coordinator's thread only.
      run_dir: gets metrics.jsonl.
      trackers: what makes each of them, by name.
      about: of each.
    """

    def __init__(
        self,
        view: View,
        journal: Journal,
        run_dir: Path,
        trackers: Mapping[str, Callable[[About], Tracker]],
        about: Mapping[str, About],
    ) -> None:
        self._view, self._journal, self._run_dir = view, journal, run_dir
        self._told, self._newest = 0, -1
        self._warnings: SimpleQueue[str] = SimpleQueue()
        self._broken = False
        self._inboxes: dict[str, SimpleQueue[Any]] = {name: SimpleQueue() for name in trackers}
        self._threads = {
            name: threading.Thread(
                target=self._serve, args=(name, make, about[name]), name=f"tracker {name}", daemon=True
            )
            for name, make in trackers.items()
        }

    # --- a view ----------------------------------------------------------------------------------

    def note(self, level: str, text: str) -> None:
        """See `View`."""
        self._view.note(level, text)

    def progress(self, live: dict[str, Any]) -> None:
        """See `View`."""
        self._warn()
        self._view.progress(live)

    def committed(self, row: dict[str, Any]) -> None:
        """See `View`."""
        self._view.committed(row)

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        """See `View`; the rounds up to this version go out, as far as all of them is known."""
        self._view.scored(version, score)
        self._newest = max(self._newest, version)
        self._follow(final=False)

    # --- the rounds ------------------------------------------------------------------------------

    def close(self) -> None:
        """All that is committed goes out. The trackers end."""
        self._follow(final=True)
        last = self._journal.last_committed()
        done = self._journal.get("status") == "done"
        for inbox in self._inboxes.values():
            inbox.put((done, "" if last is None else self._journal.digest(last)))
        deadline = time.monotonic() + _PATIENCE_S
        for name, thread in self._threads.items() if self._told else ():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._warnings.put(f"tracking: {name} did not end within {_PATIENCE_S:g} s: what it has is not whole")
        self._warn()

    def _follow(self, final: bool) -> None:
        first, new = not self._told, []
        for row in rows(self._journal, self._told):
            # A score may be a round late, and the bias is measured after the commit.
            known = row["eval_loss"] is not None and (row["aggregation_bias"] is not None or not row["round"])
            if not (final or known or row["round"] <= self._newest - 2):
                break
            new.append(row)
        if first and new:
            # Not before: a run that fails at its setup leaves nothing behind.
            for thread in self._threads.values():
                thread.start()
        self._told += len(new)
        for row in new:
            for inbox in self._inboxes.values():
                inbox.put((row["round"], row["committed_at"], scalars(row)))
        if new and not self._broken and not final:
            try:
                self._write(lines(new), first)
            except (OSError, StorageError) as error:
                self._broken = True
                self._warnings.put(f"{LINES} cannot be written ({error}); it is tried again at the end")

    def _write(self, content: bytes, first: bool) -> None:
        """The first rounds that this process tells of are all there are: they replace what an earlier one left.

        That may end in half a line, if it was killed.
        """
        path = self._run_dir / LINES
        if first:
            atomic.write_bytes(path, content)
        else:
            with open(path, "ab") as file:
                file.write(content)

    def _serve(self, name: str, make: Callable[[About], Tracker], about: About) -> None:
        try:
            tracker = make(about)
            while len(message := self._inboxes[name].get()) == 3:
                tracker.log(*message)
            tracker.end(*message)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            self._warnings.put(
                f"tracking: {name} failed ({type(error).__name__}: {reason}); the run goes on without it"
            )

    def _warn(self) -> None:
        while not self._warnings.empty():
            text = self._warnings.get()
            log.warning("%s", text)
            self._journal.add_note("warning", text)
            self._view.note("warning", text)


def follow(view: View, journal: Journal, run_dir: Path, backends: Sequence[str]) -> Follower:
    """A run's follower, with these of its trackers."""
    config, folder = flat(json.loads(journal.require("config"))), run_dir / FOLDER
    run, name = journal.require("run"), str(config["experiment_name"])
    about = {backend: About(run, name, config, folder / backend) for backend in backends}
    return Follower(view, journal, run_dir, {backend: BY_NAME[backend] for backend in backends}, about)


def write_lines(run_dir: Path, journal: Journal) -> None:
    """metrics.jsonl, from the journal, whole or not at all."""
    atomic.write_bytes(run_dir / LINES, lines(rows(journal)))
