"""FederatedServer: joins selection and aggregation to the run's folder. No socket, no clock, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedmq import atomic
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.algorithms.server_opt import ServerOptimizer
from fedmq.algorithms.staleness import Discount
from fedmq.codec import raw
from fedmq.codec.base_link import BaseLink
from fedmq.codec.download import DownloadCodec
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.grouping import Size
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.messages import BlobRef, Offer
from fedmq.protocol.phases import Progress
from fedmq.runtime.aggregation import NOTHING, Remembered, fold, rebased, require_enough, step
from fedmq.runtime.answers import unanswered
from fedmq.runtime.bias import record_bias
from fedmq.runtime.checkpoints import Checkpoints
from fedmq.runtime.control import TrainingFiles
from fedmq.runtime.downloads import Deltas, newest_link, publish
from fedmq.runtime.needed_blobs import delete_unneeded
from fedmq.runtime.screening import Screened, UpdateLimits, screen, screen_first
from fedmq.runtime.selection import ClientSelection, Weighting, weigher
from fedmq.runtime.task_times import UNKNOWN, Times
from fedmq.runtime.updates import Updates
from fedmq.runtime.uploads import Uploads
from fedmq.storage.blobs import BlobStore
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import global_metrics, round_metrics, write_metrics
from fedmq.tensors import Difference, NamedTensors, packed

#: Updates of a round that are kept decoded until it is folded, in bytes.
MAX_DECODED_NBYTES = 1 << 24


class FederatedServer:
    """The global model of one run, and everything that is durable about it.

    Args:
      run_dir: OUTPUT_DIR; run.db in it is open as `journal`.
      journal: the run's journal, writable.
      aggregator, server_optimizer, weighting: the algorithm (see `fedmq.algorithms`).
      selection: draws the clients of each round.
      uploads, download: how updates come, and how versions go to who has the one before.
      discount: of updates that were trained from an older version than the round's, by how many.
      limits: of what an update may claim and be.
      num_rounds: the last round, whose model is also kept as round_final.
      save_every: rounds between kept global checkpoints.
      save_client_adapters: whether client_K/round_N is kept.
    """

    def __init__(
        self,
        run_dir: Path,
        journal: Journal,
        *,
        aggregator: Aggregator,
        server_optimizer: ServerOptimizer,
        selection: ClientSelection,
        weighting: Weighting,
        uploads: Uploads,
        download: DownloadCodec,
        discount: Discount,
        limits: UpdateLimits,
        num_rounds: int,
        save_every: int,
        save_client_adapters: bool,
    ) -> None:
        self.run_dir, self.journal = run_dir, journal
        self.aggregator, self.server_optimizer = aggregator, server_optimizer
        self.selection, self.weighting, self.limits = selection, weighting, limits
        self.uploads, self.download = uploads, download
        self.blobs = BlobStore(run_dir / "blobs")
        self.deltas = Deltas(journal, self.blobs, download)
        self.training_files = TrainingFiles(journal, self.blobs, aggregator.told)
        self._updates = Updates(journal, self.blobs, uploads, discount)
        self._checkpoints = Checkpoints(
            *(run_dir, journal, self.blobs, self._updates),
            num_rounds=num_rounds,
            save_every=save_every,
            clients=save_client_adapters,
        )
        #: the newest version's adapter, so that a round reads from disk only what clients sent
        self._params: tuple[int, NamedTensors] | None = None
        self._memory: tuple[int, Remembered] = (0, NOTHING)
        #: what the clients that were just drawn count, where the draw decides it
        self._weights: dict[str, float] | None = None
        #: the open round's first updates, as they were checked: few and small ones need not be read again
        self._decoded: dict[str, NamedTensors] = {}

    # --- where the run stands ------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far the journal says that the run came. What a crash left half done is done first."""
        rows = self.journal.rounds()
        if rows and rows[-1]["state"] == "frozen":
            self.aggregate(rows[-1]["round"], rows[-1]["frozen"])
            rows = self.journal.rounds()
        committed = [row for row in rows if row["state"] == "committed"]
        known = self.journal.all_hosted()
        progress = Progress(
            hosts={client: hosted.workers for client, hosted in known.items()},
            sizes={client: Size(hosted.num_examples, hosted.num_tokens) for client, hosted in known.items()},
            gone=tuple(client for client, hosted in known.items() if hosted.gone),
        )
        if not committed:
            return progress
        self._checkpoints.keep_clients(committed[-1]["round"], again=True)
        record_bias(self.journal, self.blobs, self._updates, self.weighting, committed[-1]["round"])
        opened = [row for row in rows if row["state"] == "open"]
        groups = tuple(map(tuple, opened[0]["groups"])) if opened else ()
        accepted = self.journal.updates(opened[0]["round"]) if opened else []
        unscored, silent = unanswered(self.journal, self.blobs, [row["round"] for row in committed])
        return progress._replace(
            version=committed[-1]["round"],
            selected=groups,
            started=tuple(opened[0]["started"].items()) if opened else (),
            accepted=tuple((row["client"], row["digest"]) for row in accepted),
            draw=opened[0]["draw"] if opened else 0,
            unevaluated=tuple(unscored),
            ungenerated=tuple(silent),
        )

    def adapter(self, version: int) -> BlobRef:
        """A committed version's adapter as workers ask for it."""
        digest = self.journal.digest(version)
        return BlobRef(digest, self.blobs.nbytes(digest))

    # --- one round -----------------------------------------------------------------------------

    def select(self, round: int, eligible: Sequence[str], count: int, draw: int = 0) -> tuple[str, ...]:
        """Draw the round's clients; anew, if it was drawn before and abandoned."""
        clients, self._weights = self.selection.select(round, eligible, count, draw)
        return clients

    def open_round(
        self, round: int, groups: Sequence[Sequence[str]], draw: int = 0, started: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Make the selection durable, and who is trained together: a resumed run must not compute it anew."""
        self.journal.open_round(round, groups, self._weights, draw, dict(started))

    def start(self, offer: Offer, content: bytes) -> None:
        """Take the first adapter (version 0) and its adapter_config.json, or refuse them as `screen_first` does."""
        atomic.write_bytes(self._checkpoints.config, screen_first(offer, content, self.limits.empty).encode())
        self._commit(0, content, NOTHING)

    def check(self, offer: Offer, content: bytes) -> Screened:
        """Refuse an update that is not one of this run.

        Raises:
          RemoteProtocolError: with the first thing that is wrong.
        """
        job, _ = parse_task(offer.task)
        hosted = self.journal.hosted(job.unit)
        announced = hosted.num_examples if hosted else 0
        base = self.uploads.start(job.unit, job.round, self._version(job.round - 1))
        screened = screen(offer, content, base, announced, self.limits, self.uploads.of(job.unit, job.round).decode)
        if sum(value.nbytes for value in screened.adapter.values()) * (len(self._decoded) + 1) <= MAX_DECODED_NBYTES:
            self._decoded[offer.blob.digest] = screened.adapter
        return screened

    def accept(self, offer: Offer, worker: str, nbytes_up: int, norm: float, times: Times = UNKNOWN) -> None:
        """An update whose blob is durable and checked counts: once for round and client.

        Args:
          offer: of it.
          worker: whose.
          nbytes_up: on the wire.
          norm: as `check` found it.
          times: of the task.
        """
        job, _ = parse_task(offer.task)
        last = self.journal.last_committed()
        assert last is not None
        self.journal.add_update(
            round=last + 1,
            client=job.unit,
            started=job.round,
            worker=worker,
            digest=offer.blob.digest,
            num_examples=offer.num_examples,
            num_tokens=offer.num_tokens,
            num_steps=offer.num_steps,
            train_loss=offer.train_loss,
            train_seconds=offer.train_seconds,
            norm=norm,
            bytes_up=nbytes_up,
            bytes_down=offer.nbytes_down,
            state_lost=offer.state_lost,
            **times._asdict(),
        )

    def aggregate(self, round: int, clients: Collection[str]) -> None:
        """Freeze the set, fold it from its files in client-id order, step, commit.

        Memory holds the global adapter, the running sum, the updates that are added in one pass (twelve, or 64 MiB, or
        two) and at most MAX_DECODED_NBYTES of others, whatever the number of clients; rules that compare all updates
        keep 256 MiB more, and the rest in a file. RunError: too few updates, or the rule or the server's step failed;
        the round is not committed.
        """
        require_enough(self.aggregator, round, len(clients))
        self.journal.freeze_round(round, sorted(clients))
        params, before = self._version(round - 1), self._remembered(round - 1)
        mean = fold(self.aggregator, params, self._deltas(round, clients, params), round, before.aggregate)
        led = step(self.server_optimizer, params, mean.delta, before.optimizer, round)
        stepped, optimizer = rebased(self.aggregator, round, *led)
        new = publish(self.download, stepped, params, before.residual, round)
        memory, self._decoded = Remembered(optimizer, mean.left, new.residual), {}
        self._commit(round, raw.encode(new.adapter), memory, new.delta, mean.merged)
        self._params, self._memory = (round, packed(new.adapter)), (round, memory)

    def _deltas(self, round: int, clients: Collection[str], params: NamedTensors) -> Iterator[tuple[Update, float]]:
        """Each client's update and weight, in client-id order."""
        rows = {row["client"]: row for row in self.journal.updates(round)}
        weigh = weigher(self.journal, self.weighting, round)
        for client in sorted(clients):
            row = rows[client]
            base = params if row["started"] == round else self._version(row["started"] - 1)
            local = self._decoded.get(row["digest"]) or self._updates.adapter(row, base)
            delta = self._updates.discounted(row, Difference(local, base))
            sizes = (row["num_examples"], row["num_tokens"])
            yield Update(client, row["started"] - 1, *sizes, delta, row["num_steps"]), weigh(row)

    def tidy(self, pinned_versions: Collection[int]) -> None:
        """What a commit leaves to be done while the next round trains: clients' checkpoints, bias, old blobs deleted.

        A crash in between loses nothing: `progress` does the first two, from blobs that are deleted after that. Those
        of `pinned_versions`, which somebody is still to evaluate or trains from, are kept.
        """
        last = self.journal.last_committed()
        assert last is not None
        self._checkpoints.keep_clients(last)
        record_bias(self.journal, self.blobs, self._updates, self.weighting, last)
        delete_unneeded(self.journal, self.blobs, {*pinned_versions, last}, self.training_files.in_use())

    # --- the end -------------------------------------------------------------------------------

    def write_derived(self) -> None:
        """The newest checkpoints, training_metrics.json and global_metrics.json, whatever round the run ended in."""
        self._checkpoints.keep_last()
        write_metrics(self.run_dir, self.journal)

    def scores(self, first: int = 0) -> dict[int, dict[str, Any]]:
        """Evaluation by version, from `first` on."""
        return global_metrics(self.journal, first)

    def rounds(self, first: int = 1) -> list[dict[str, Any]]:
        """The committed rounds from `first` on, as in training_metrics.json."""
        return round_metrics(self.journal, first)

    def _commit(
        self,
        round: int,
        content: bytes,
        memory: Remembered,
        delta: bytes | None = None,
        merged: NamedTensors = MappingProxyType({}),
    ) -> None:
        digest = self.blobs.add(content)
        optimizer, leads = (None if part is None else self.blobs.add(part) for part in (memory.encoded(), delta))
        links, link = self.journal.links(round - 1), None
        if merged:
            before = newest_link(self.journal, self.blobs, round - 1)
            link = self.blobs.add(BaseLink(merged, before).encoded())
            links = [*links, link]
        self._checkpoints.keep(round, digest, links)
        # Last: a round is committed only when all that it promises is on disk.
        self.journal.commit_round(round, digest, optimizer, leads, link)

    def _remembered(self, version: int) -> Remembered:
        """What was known after a version beside the adapter: all of it is durable, so that a resumed run goes on."""
        if self._memory[0] != version:
            digest = self.journal.optimizer(version)
            self._memory = (version, Remembered.decoded(None if digest is None else self.blobs.read(digest)))
        return self._memory[1]

    def _version(self, version: int) -> NamedTensors:
        """A committed adapter that is in use: the newest is held."""
        last = self.journal.last_committed()
        if last is None:
            raise RemoteProtocolError("EARLY", "an update before the first adapter")
        if self._params is not None and self._params[0] == version:
            return self._params[1]
        found = self._updates.version(version)
        assert found is not None
        if version == last:
            self._params = (version, found)
        return found
