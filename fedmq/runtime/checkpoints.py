"""What of a run is kept in PEFT's format, for people: global_model/round_N, round_final, client_K/round_N."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fedmq.codec import raw
from fedmq.codec.peft_file import as_peft
from fedmq.runtime.client_states import FOLDER
from fedmq.runtime.updates import Updates
from fedmq.storage.blobs import BlobStore
from fedmq.storage.checkpoint import CONFIG, WEIGHTS, checkpoint_of, write_checkpoint
from fedmq.storage.journal import Journal


class Checkpoints:
    """Those of one run.

    Args:
      run_dir, journal, blobs: of the run.
      updates: reads what clients sent.
      num_rounds: the last round, whose model is also kept as round_final.
      save_every: rounds between kept global checkpoints.
      clients: whether client_K/round_N is kept.
    """

    def __init__(
        self,
        run_dir: Path,
        journal: Journal,
        blobs: BlobStore,
        updates: Updates,
        *,
        num_rounds: int,
        save_every: int,
        clients: bool,
    ) -> None:
        self._run_dir, self._journal, self._blobs, self._updates = run_dir, journal, blobs, updates
        self._num_rounds, self._save_every, self._clients = num_rounds, save_every, clients
        #: adapter_config.json, as the first adapter came with
        self.config = run_dir / "blobs" / CONFIG

    def keep(self, round: int, digest: str, links: Sequence[str]) -> None:
        """Write those that a version is to have, whose blobs are durable.

        Args:
          round: of the version.
          digest: of its adapter.
          links: of its base, oldest first.
        """
        names = [f"round_{round}"] if round % self._save_every == 0 or round == self._num_rounds else []
        names += ["round_final"] if round == self._num_rounds else []
        for name in names:
            folder = self._run_dir / "global_model" / name
            write_checkpoint(folder, as_peft(self._blobs.path(digest)), self.config, links)

    def keep_clients(self, round: int, again: bool = False) -> None:
        """Write what is missing of the clients' of a committed round, as far as its blobs are still there.

        Args:
          round: whose updates.
          again: also those that are there: a process that was killed may not have made their names durable.
        """
        held, base = 0, None
        for row in self._journal.folded(round) if self._clients else ():
            folder, blob = self._run_dir / row["client"] / f"round_{round}", self._blobs.path(row["digest"])
            if not (again or not folder.is_dir()) or not blob.is_file():
                continue
            links = self._journal.links(row["started"] - 1)
            if self._updates.whole(row):
                write_checkpoint(folder, as_peft(blob), self.config, links)
                continue
            if row["started"] != held:
                held, base = row["started"], self._updates.base(row)
            if base is None:
                return  # it is deleted only after all of these were written
            content = raw.encode(self._updates.adapter(row, base))
            write_checkpoint(folder, as_peft(content), self.config, links)

    def keep_last(self) -> None:
        """The newest ones, whatever round the run ended in."""
        last = self._journal.last_committed()
        if last is None:
            return
        kept = checkpoint_of(self._run_dir, last, self._journal.digest(last), self._journal.links(last), as_peft)
        final = kept.with_name("round_final")
        if last == self._num_rounds and not (final / WEIGHTS).is_file():
            write_checkpoint(final, kept / WEIGHTS, kept / CONFIG)
        self.keep_clients(last)
        if self._journal.get("status") == "done":  # nobody trains any more, nor scores a client's own model
            shutil.rmtree(self._run_dir / FOLDER, ignore_errors=True)
