"""The worker's data plane: adapters down, updates up, each in a window of chunks that can be resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.window import Window
from fedmq.storage.blobs import BlobStore, PartialBlob
from fedmq.transport.base import WorkerTransport

#: Silence on a transfer after which what was in flight counts as lost; shorter when it could not even be sent.
_IDLE_S = 5.0
_RETRY_S = 0.2
#: Adapters kept on disk: the one in hand and the one before.
_KEPT = 2


@dataclass
class _Download:
    blob: m.BlobRef
    part: PartialBlob
    window: Window
    received: int = 0
    moved_at: float = 0.0


@dataclass
class _Upload:
    offer: m.Offer
    content: bytes
    window: Window
    moved_at: float = 0.0


class Transfers:
    """At most one download, and one upload per task."""

    def __init__(self, transport: WorkerTransport, folder: Path) -> None:
        self._transport, self._blobs = transport, BlobStore(folder, durable=False)
        self._in, self._out = Codec(m.DATA_TO_WORKER), Codec(m.DATA_TO_COORDINATOR)
        self._chunk_nbytes, self._credits = 1 << 20, 8
        self._download: _Download | None = None
        self._uploads: dict[str, _Upload] = {}
        self._fetched: tuple[str, int] | None = None
        self._missing = False
        self._recent: list[str] = []
        self._now = 0.0

    def configure(self, chunk_nbytes: int, credits: int) -> None:
        """Take the coordinator's chunk size (bytes) and window (chunks)."""
        self._chunk_nbytes, self._credits = max(1, chunk_nbytes), max(1, credits)

    def path(self, digest: str) -> Path:
        """Where a fetched adapter is."""
        return self._blobs.path(digest)

    def fetch(self, blob: m.BlobRef) -> None:
        """Get an adapter, unless it is here already."""
        if self._download is not None:
            self._download.part.close()
            self._download = None
        if self._blobs.has(blob.digest):
            try:
                if blob.digest not in self._blobs.checked:
                    self._blobs.read(blob.digest)
                self._done(blob.digest, 0)
                return
            except RemoteProtocolError:
                self._blobs.remove(blob.digest)
        part = self._blobs.partial(blob.digest, blob.nbytes)
        window = Window(blob.nbytes, self._chunk_nbytes, self._credits, part.offset, part.offset)
        self._download = _Download(blob, part, window, moved_at=self._now)
        self._go_on()

    def fetched(self) -> tuple[str, int] | None:
        """(digest, bytes received) of a download that is complete; said once."""
        fetched, self._fetched = self._fetched, None
        return fetched

    def missing(self) -> bool:
        """Whether the coordinator does not have the adapter that was to be fetched; said once."""
        missing, self._missing = self._missing, False
        return missing

    def upload(self, offer: m.Offer, path: Path) -> None:
        """Send an update from the start; if a part of it is there already, the first answer says so."""
        window = Window(offer.blob.nbytes, self._chunk_nbytes, self._credits)
        self._uploads[offer.task] = upload = _Upload(offer, path.read_bytes(), window, moved_at=self._now)
        self._push(upload)

    def forget(self, task: str) -> None:
        """Stop sending this update."""
        self._uploads.pop(task, None)

    def rewind(self) -> None:
        """The link was rebuilt: what was in flight is lost. Uploads begin again when they are asked for."""
        self._uploads.clear()
        if self._download is not None:
            self._download.window.rewind()
            self._download.moved_at = self._now
            self._ask()

    def take(self, frames: tuple[bytes, ...]) -> None:
        """One message of the data plane."""
        if len(frames) != 2:
            raise RemoteProtocolError("MALFORMED", f"{len(frames)} frames on the data plane")
        message = self._in.decode(frames[0])
        match message:
            case m.Chunk(digest, offset):
                self._chunk(digest, offset, frames[1])
            case m.PutAck(digest, offset):
                for upload in self._uploads.values():
                    if upload.offer.blob.digest == digest:
                        upload.moved_at = self._now
                        upload.window.confirm(offset)
                        self._push(upload)
            case m.NotFound(digest):
                if self._download is not None and self._download.blob.digest == digest:
                    self._download.part.close()
                    self._download, self._missing = None, True

    def tick(self, now: float) -> None:
        """Send again what nobody answered."""
        self._now = now
        download = self._download
        if download is not None and now - download.moved_at >= _IDLE_S:
            download.moved_at = now
            download.window.rewind()
            self._ask()
        for upload in list(self._uploads.values()):
            if upload.window.complete:
                del self._uploads[upload.offer.task]
            elif now - upload.moved_at >= _IDLE_S:
                upload.moved_at = now
                upload.window.rewind()
                self._put(upload, upload.window.confirmed, 0)

    def close(self) -> None:
        """Keep what has arrived of a download for the next time."""
        if self._download is not None:
            self._download.part.close()

    def _go_on(self) -> None:
        download = self._download
        assert download is not None
        if not download.window.complete:
            return self._ask()
        self._download = None
        try:
            download.part.finish()
        except RemoteProtocolError:
            return self.fetch(download.blob)
        return self._done(download.blob.digest, download.received)

    def _ask(self) -> None:
        assert self._download is not None
        download = self._download
        for offset, nbytes in download.window.due():
            if not self._transport.send("data", self._out.encode(m.Get(download.blob.digest, offset, nbytes))):
                download.moved_at = self._now - _IDLE_S + _RETRY_S

    def _chunk(self, digest: str, offset: int, payload: bytes) -> None:
        download = self._download
        if download is None or download.blob.digest != digest or not download.part.append(offset, payload):
            return
        download.received += len(payload)
        download.moved_at = self._now
        download.window.confirm(download.part.offset)
        self._go_on()

    def _done(self, digest: str, received: int) -> None:
        self._fetched = (digest, received)
        self._recent = [*(d for d in self._recent if d != digest), digest]
        for old in self._recent[:-_KEPT]:
            self._blobs.remove(old)
        self._recent = self._recent[-_KEPT:]

    def _push(self, upload: _Upload) -> None:
        for offset, nbytes in upload.window.due():
            self._put(upload, offset, nbytes)

    def _put(self, upload: _Upload, offset: int, nbytes: int) -> None:
        header = self._out.encode(m.Put(upload.offer.nonce, upload.offer.blob.digest, offset))
        if not self._transport.send("data", header, memoryview(upload.content)[offset : offset + nbytes]):
            upload.moved_at = self._now - _IDLE_S + _RETRY_S
