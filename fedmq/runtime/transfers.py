"""The worker's data plane: adapters down, updates up, each in a window of pieces that can be resumed."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fedmq.codec.download import DownloadCodec, download_codec
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.pace import Pace
from fedmq.protocol.window import Window
from fedmq.recipe import CodecSpec
from fedmq.runtime.base_links import BaseLinks
from fedmq.runtime.held_adapters import HeldAdapters
from fedmq.runtime.moving import Download, Transfer, Upload
from fedmq.storage.blobs import BlobStore
from fedmq.transport.base import Payload, WorkerTransport

log = logging.getLogger("fedmq.worker")
#: What could not be queued is tried again after this.
_RETRY_S = 0.2
#: A transfer that nothing moved for so many times the patience for one piece has lost its link, whatever that says.
_STUCK = 3


class Transfers:
    """At most one download, and one upload per task.

    Args:
      transport: of the worker; only its data plane is used.
      folder: where adapters are kept.
      clock: monotonic, in seconds.
    """

    def __init__(self, transport: WorkerTransport, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport, self._blobs, self._clock = transport, BlobStore(folder, durable=False), clock
        self._in, self._out = Codec(m.DATA_TO_WORKER), Codec(m.DATA_TO_COORDINATOR)
        self._pace = Pace(1 << 20, 8)
        self._adapters = HeldAdapters(self._blobs)
        #: of the base, that are here
        self.links = BaseLinks(self._blobs, self._adapters)
        self._codec: DownloadCodec | None = None
        self._download: Download | None = None
        self._uploads: dict[str, Upload] = {}
        self._fetched: tuple[str, int] | None = None
        #: by digest, bytes that came of what is not yet whole
        self._came: Counter[str] = Counter()
        self._missing = False
        self._stuck = False

    def configure(self, chunk_nbytes: int, credits: int, download: CodecSpec) -> None:
        """Take the coordinator's largest piece (bytes) and window (pieces), and the codec that its deltas are in.

        What the link can do stays known.
        """
        self._codec = download_codec(download)
        if (chunk_nbytes, credits) != (self._pace.max_nbytes, self._pace.max_credits):
            self._pace = Pace(max(1, chunk_nbytes), max(1, credits))

    def path(self, digest: str) -> Path:
        """Where a fetched adapter is."""
        return self._blobs.path(digest)

    def fetch(self, blob: m.BlobRef, delta: m.DeltaRef | None = None, merged: m.BlobRef | None = None) -> None:
        """Get an adapter and before it the links of its base, up to `merged`, as far as they are not here already.

        An adapter comes by its delta, if what that applies to is here.
        """
        if self._download is not None:
            self._download.part.close()
            self._download = None
        try:
            link = self.links.missing(merged)
        except RemoteProtocolError as error:
            log.warning("what was merged into the base cannot be read: %s", error)
            self._missing = True
            return
        if link is not None:
            self._begin(link, blob, delta, merged)
            return
        if self._adapters.holds(blob.digest):
            self._done(blob.digest)
            return
        if self._codec and delta and delta.blob.nbytes < blob.nbytes and self._adapters.base_of(delta):
            self._begin(delta.blob, blob, delta)
        else:
            self._begin(blob, blob)

    def fetched(self) -> tuple[str, int] | None:
        """(digest, bytes received, headers and repeats among them) of a download that is complete; said once."""
        fetched, self._fetched = self._fetched, None
        return fetched

    def missing(self) -> bool:
        """Whether the coordinator does not have the adapter that was to be fetched; said once."""
        missing, self._missing = self._missing, False
        return missing

    def stuck(self) -> bool:
        """Whether a transfer has not moved for so long that the links should be made anew; said once."""
        stuck, self._stuck = self._stuck, False
        return stuck

    def upload(self, offer: m.Offer, path: Path) -> bool:
        """Send an update from the start; if a part of it is there already, the first answer says so.

        Returns False when the file is not what was offered: then nobody shall ever have it.
        """
        upload = self._uploads.get(offer.task)
        if upload is not None and upload.offer == offer:
            self._again(upload)
            return True
        content = path.read_bytes() if path.is_file() else b""
        if m.BlobRef(hashlib.sha256(content).hexdigest(), len(content)) != offer.blob:
            return False
        window = Window(offer.blob.nbytes, self._pace)
        upload = Upload(offer=offer, content=content, window=window, moved_at=self._clock())
        self._uploads[offer.task] = upload
        self._go_on(upload)
        return True

    def forget(self, task: str) -> None:
        """Stop sending this update."""
        self._uploads.pop(task, None)

    def relinked(self) -> None:
        """The data plane has a new link: what was in flight on the old one is lost."""
        for transfer in self._open():
            if transfer.look_at < math.inf:
                self._again(transfer)

    def rewind(self) -> None:
        """All links were made anew. Uploads go on when they are asked for: the coordinator may be another by then."""
        for upload in self._uploads.values():
            upload.look_at = math.inf
        self.relinked()

    def take(self, frames: tuple[Payload, ...]) -> None:
        """One message of the data plane."""
        if len(frames) != 2:
            raise RemoteProtocolError("MALFORMED", f"{len(frames)} frames on the data plane")
        message = self._in.decode(bytes(frames[0]))
        match message:
            case m.Chunk(digest, offset):
                download = self._download
                if download is None or download.blob.digest != digest:
                    return
                self._came[digest] += len(frames[0]) + len(frames[1])
                if download.part.append(offset, frames[1]):
                    self._confirm(download, download.part.offset)
                    self._advance(download)
            case m.PutAck(digest, offset):
                for upload in [each for each in self._uploads.values() if each.offer.blob.digest == digest]:
                    upload.asking = False
                    self._confirm(upload, offset)
                    if upload.window.complete:
                        del self._uploads[upload.offer.task]
                    elif upload.look_at < math.inf:
                        self._go_on(upload)
            case m.NotFound(digest):
                download = self._download
                if download is not None and download.blob.digest == digest:
                    self._download = None
                    if download.delta is not None and download.merged is None:
                        download.part.discard()
                        self._without(download, "the coordinator does not have it")
                    else:
                        download.part.close()
                        self._missing = True

    def tick(self) -> None:
        """Send again what nobody answered."""
        now = self._clock()
        for transfer in self._open():
            if now < transfer.look_at:
                continue
            if now - transfer.moved_at >= _STUCK * self._pace.patience_s:
                transfer.moved_at, self._stuck = now, True
            if transfer.unsent:
                self._go_on(transfer)
            else:
                self._pace.lost()
                self._again(transfer)

    def forget_all(self) -> None:
        """Delete every adapter and link: the run is over."""
        for path in self._blobs.folder.iterdir():
            path.unlink()

    def close(self) -> None:
        """Keep what has arrived of a download for the next time."""
        if self._download is not None:
            self._download.part.close()

    def _open(self) -> list[Transfer]:
        return [*([] if self._download is None else [self._download]), *self._uploads.values()]

    def _advance(self, download: Download) -> None:
        """Ask for more, or be done."""
        if not download.window.complete:
            return self._go_on(download)
        self._download = None
        try:
            download.part.finish()
            if download.delta is not None and download.merged is None:
                assert self._codec is not None
                self._adapters.rebuild(download.adapter, download.delta, self._codec)
        except RemoteProtocolError as error:
            return self._without(download, str(error))
        self._charge(download)
        if download.merged is not None:
            return self.fetch(download.adapter, download.delta, download.merged)
        return self._done(download.adapter.digest)

    def _without(self, download: Download, why: str) -> None:
        """What came is of no use: the link, or the whole adapter, is asked for from the start."""
        if download.merged is not None:
            return self._begin(download.blob, download.adapter, download.delta, download.merged)
        if download.delta is not None:
            log.warning("the delta of an adapter is of no use (%s): the whole is downloaded", why)
            self._charge(download)
        return self._begin(download.adapter, download.adapter)

    def _charge(self, download: Download) -> None:
        """What came of a link or a delta came for its adapter."""
        if download.blob != download.adapter:
            self._came[download.adapter.digest] += self._came.pop(download.blob.digest, 0)

    def _begin(
        self,
        blob: m.BlobRef,
        adapter: m.BlobRef,
        delta: m.DeltaRef | None = None,
        merged: m.BlobRef | None = None,
    ) -> None:
        part = self._blobs.partial(blob.digest, blob.nbytes)
        window, now = Window(blob.nbytes, self._pace, part.offset), self._clock()
        self._download = Download(
            blob=blob, part=part, adapter=adapter, delta=delta, merged=merged, window=window, moved_at=now
        )
        self._advance(self._download)

    def _done(self, digest: str) -> None:
        self._fetched = (digest, self._came.pop(digest, 0))
        self._adapters.used(digest)

    def _confirm(self, transfer: Transfer, offset: int) -> None:
        now = self._clock()
        if transfer.window.confirm(offset, now):
            transfer.moved_at = now

    def _again(self, transfer: Transfer) -> None:
        """What was in flight is lost. How much of an upload has arrived, the coordinator knows."""
        transfer.window.rewind()
        if isinstance(transfer, Upload):
            transfer.asking = True
        self._go_on(transfer)

    def _go_on(self, transfer: Transfer) -> None:
        """Send what may go, and look again when it should have been answered."""
        now = self._clock()
        transfer.unsent = False
        if isinstance(transfer, Upload) and transfer.asking:
            transfer.unsent = not self._send(transfer, transfer.window.confirmed, 0)
        else:
            for offset, nbytes in transfer.window.due(now):
                if not self._send(transfer, offset, nbytes):
                    transfer.window.unsend(offset)
                    transfer.unsent = True
                    break
        transfer.look_at = now + (_RETRY_S if transfer.unsent else self._pace.patience_s)

    def _send(self, transfer: Transfer, offset: int, nbytes: int) -> bool:
        if isinstance(transfer, Download):
            return self._transport.send("data", self._out.encode(m.Get(transfer.blob.digest, offset, nbytes)))
        assert isinstance(transfer, Upload)
        header = self._out.encode(m.Put(transfer.offer.nonce, transfer.offer.blob.digest, offset))
        return self._transport.send("data", header, memoryview(transfer.content)[offset : offset + nbytes])
