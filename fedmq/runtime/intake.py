"""The coordinator's data plane: blobs out in chunks on request, offered blobs in, piece by piece, to disk."""

from __future__ import annotations

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.limits import Recent
from fedmq.runtime.server import FederatedServer
from fedmq.storage.blobs import PartialBlob
from fedmq.transport.base import CoordinatorTransport, Incoming

#: An adapter larger than this is not one: 2 GiB.
MAX_BLOB_NBYTES = 1 << 31

#: The worker, its offer, and the bytes that are here and durable now.
Stored = tuple[str, m.Offer, bytes]


class Intake:
    """What crosses the data plane. Uploads are taken only under the nonce of a task whose offer was granted."""

    chunk_nbytes = 1 << 20
    credits = 8

    def __init__(self, transport: CoordinatorTransport, server: FederatedServer) -> None:
        self._transport, self._blobs = transport, server.blobs
        self._in, self._out = Codec(m.DATA_TO_COORDINATOR), Codec(m.DATA_TO_WORKER)
        #: by worker and task: after a restart of ours two workers may have been given a task of the same name
        self._offers: dict[tuple[str, str], m.Offer] = {}
        self._uploads: dict[tuple[str, str], m.Offer] = {}
        #: nonce, digest and key's name that bytes were asked for under: pieces may still be on their way
        self._asked: Recent[tuple[str, str, str], None] = Recent(lambda: None)
        # By digest: training is deterministic, so two workers may send the very same update.
        self._parts: dict[str, PartialBlob] = {}
        # All workers fetch the same adapter at about the same time: it is read from disk once.
        self._cached: tuple[str, bytes] = ("", b"")

    def offered(self, worker: str, offer: m.Offer) -> None:
        """Remember an offer until the state machine has judged it."""
        if not 0 < offer.blob.nbytes <= MAX_BLOB_NBYTES:
            raise RemoteProtocolError("SIZE", f"an update of {offer.blob.nbytes} bytes")
        self._offers[worker, offer.task] = offer

    def expect(self, worker: str, task: str) -> Stored | None:
        """The offer was granted: its bytes may come. If they are here already, they are returned at once."""
        offer = self._offers.pop((worker, task))
        digest = offer.blob.digest
        if self._blobs.has(digest):
            return worker, offer, self._blobs.read(digest)
        self._uploads[worker, task] = offer
        for key in (worker, ""):
            self._asked.of((offer.nonce, digest, key))
        if digest not in self._parts:
            self._parts[digest] = self._blobs.partial(digest, offer.blob.nbytes)
        return None

    def decline(self, worker: str, task: str) -> None:
        """The offer, if there was one, is not wanted."""
        self._offers.pop((worker, task), None)

    def revoke(self, worker: str) -> None:
        """Nothing that this worker offered is wanted any more."""
        self._offers = {key: offer for key, offer in self._offers.items() if key[0] != worker}
        self._uploads = {key: offer for key, offer in self._uploads.items() if key[0] != worker}

    def take(self, incoming: Incoming) -> list[Stored]:
        """Serve one data message; the uploads that it completed."""
        if len(incoming.frames) != 2:
            raise RemoteProtocolError("MALFORMED", f"{len(incoming.frames)} frames on the data plane")
        header, payload = incoming.frames
        message = self._in.decode(header)
        if isinstance(message, m.Get):
            self._serve(incoming.peer, message)
            return []
        return self._put(incoming, message, payload)

    def forget(self, round: int) -> None:
        """No upload of this round or an earlier one is wanted any more."""
        self._uploads = {key: offer for key, offer in self._uploads.items() if parse_task(key[1])[0].round > round}
        wanted = {offer.blob.digest for offer in self._uploads.values()}
        for digest in [digest for digest in self._parts if digest not in wanted]:
            self._parts.pop(digest).discard()

    def close(self) -> None:
        """Keep what has arrived of unfinished uploads, for a resumed run."""
        for part in self._parts.values():
            part.close()

    def _serve(self, peer: bytes, get: m.Get) -> None:
        if get.digest != self._cached[0]:
            if not self._blobs.has(get.digest):
                self._transport.send("data", peer, self._out.encode(m.NotFound(get.digest)))
                return
            self._cached = (get.digest, self._blobs.read(get.digest))
        content = self._cached[1]
        piece = memoryview(content)[get.offset : get.offset + min(get.nbytes, self.chunk_nbytes)]
        self._transport.send("data", peer, self._out.encode(m.Chunk(get.digest, get.offset, len(content))), piece)

    def _put(self, incoming: Incoming, put: m.Put, payload: bytes) -> list[Stored]:
        peer, owner = incoming.peer, incoming.owner
        wanted = {key: offer for key, offer in self._uploads.items() if offer.blob.digest == put.digest}
        part = self._parts.get(put.digest)
        # A nonce opens the door only to the worker that it was given to.
        if part is None or put.nonce not in {o.nonce for (name, _), o in wanted.items() if owner in ("", name)}:
            if not self._blobs.has(put.digest):
                late = (put.nonce, put.digest, owner) in self._asked
                raise RemoteProtocolError("LATE" if late else "PUT", "bytes that nobody asks for")
            # Another worker's upload of the very same bytes was complete first: this one need not go on.
            nbytes = self._blobs.path(put.digest).stat().st_size
            self._transport.send("data", peer, self._out.encode(m.PutAck(put.digest, nbytes)))
            return []
        if payload:
            # A piece that is not the next one changes nothing: the answer says where to go on.
            part.append(put.offset, payload)
        stored: list[Stored] = []
        offset = part.offset
        if offset == part.total:
            try:
                part.finish()
                content = self._blobs.read(put.digest)
                stored = [(worker, offer, content) for (worker, _), offer in wanted.items()]
                self._uploads = {key: offer for key, offer in self._uploads.items() if key not in wanted}
                del self._parts[put.digest]
            except RemoteProtocolError:
                # Bytes were damaged on the way: acknowledging none asks for all of them again.
                self._parts[put.digest] = self._blobs.partial(put.digest, part.total)
                offset = 0
        self._transport.send("data", peer, self._out.encode(m.PutAck(put.digest, offset)))
        return stored
