"""The coordinator's data plane: blobs out in chunks on request, offered blobs in, piece by piece, to disk."""

from __future__ import annotations

from typing import NamedTuple

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.limits import Recent
from fedmq.runtime.server import FederatedServer
from fedmq.storage.blobs import PartialBlob
from fedmq.transport.base import CoordinatorTransport, Incoming, Payload

#: An adapter larger than this is not one: 2 GiB.
MAX_BLOB_NBYTES = 1 << 31


class Stored(NamedTuple):
    """An upload that is over.

    Attributes:
      worker, offer: who sent what.
      content: bytes that are durable now, or None when twice other bytes came.
      nbytes: that came in messages, their headers and repeats among them, to this process.
    """

    worker: str
    offer: m.Offer
    content: bytes | None
    nbytes: int = 0

    def checked(self) -> bytes:
        """The content.

        Raises:
          RemoteProtocolError: BLOB or SIZE, it is not what was offered.
        """
        if self.content is None:
            raise RemoteProtocolError("BLOB", "the bytes twice had not the digest that they were offered with")
        if len(self.content) != self.offer.blob.nbytes:
            text = f"{len(self.content)} bytes, offered as {self.offer.blob.nbytes}"
            raise RemoteProtocolError("SIZE", text)
        return self.content


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
        # By worker and digest: whoever sends other bytes, or names another size, harms nobody else.
        self._parts: dict[tuple[str, str], PartialBlob] = {}
        self._damaged: set[tuple[str, str]] = set()
        #: bytes that came, likewise
        self._received: dict[tuple[str, str], int] = {}
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
        digest, nbytes = offer.blob.digest, offer.blob.nbytes
        if self._blobs.has(digest):
            try:
                return Stored(worker, offer, self._blobs.read(digest))
            except RemoteProtocolError:
                self._blobs.remove(digest)
        self._uploads[worker, task] = offer
        for key in (worker, ""):
            self._asked.of((offer.nonce, digest, key))
        part = self._parts.get((worker, digest))
        if part is None or part.total != nbytes:
            if part is not None:
                part.close()
            self._parts[worker, digest] = self._blobs.partial(digest, nbytes, worker)
        return None

    def decline(self, worker: str, task: str) -> None:
        """The offer, if there was one, is not wanted."""
        self._offers.pop((worker, task), None)

    def revoke(self, worker: str) -> None:
        """Nothing that this worker offered is wanted any more."""
        self._offers = {key: offer for key, offer in self._offers.items() if key[0] != worker}
        self._keep({key: offer for key, offer in self._uploads.items() if key[0] != worker})

    def take(self, incoming: Incoming) -> list[Stored]:
        """Serve one data message; the uploads that it completed."""
        if len(incoming.frames) != 2:
            raise RemoteProtocolError("MALFORMED", f"{len(incoming.frames)} frames on the data plane")
        header, payload = incoming.frames
        message = self._in.decode(bytes(header))
        if isinstance(message, m.Get):
            self._serve(incoming.peer, message)
            return []
        return self._put(incoming, message, payload)

    def forget_before(self, round: int) -> None:
        """No upload of an earlier round is wanted any more."""
        self._keep({key: offer for key, offer in self._uploads.items() if parse_task(key[1])[0].round >= round})
        # Also those of an earlier process of this run, which nobody has offered again.
        self._blobs.discard_partials({part.path for part in self._parts.values()})

    def close(self) -> None:
        """Keep what has arrived of unfinished uploads, for a resumed run."""
        for part in self._parts.values():
            part.close()

    def _serve(self, peer: bytes, get: m.Get) -> None:
        if get.digest != self._cached[0]:
            if not self._blobs.has(get.digest):
                self._transport.send("data", peer, self._out.encode(m.NotFound(get.digest)))
                return
            self._cached = ("", b"")  # the old one is let go before the new one is read
            try:
                self._cached = (get.digest, self._blobs.read(get.digest))
            except RemoteProtocolError:
                # It is told, so that it does not wait for ever: of a delta it needs no more than that.
                self._transport.send("data", peer, self._out.encode(m.NotFound(get.digest)))
                raise
        content = self._cached[1]
        piece = memoryview(content)[get.offset : get.offset + min(get.nbytes, self.chunk_nbytes)]
        self._transport.send("data", peer, self._out.encode(m.Chunk(get.digest, get.offset, len(content))), piece)

    def _put(self, incoming: Incoming, put: m.Put, payload: Payload) -> list[Stored]:
        key = self._sender(put, incoming.owner), put.digest
        part = self._parts.get(key)
        if part is None:
            if not self._blobs.has(put.digest):
                if not payload:
                    # A question, by a worker that has yet to learn that we were restarted. It will offer again.
                    return []
                late = (put.nonce, put.digest, incoming.owner) in self._asked
                raise RemoteProtocolError("LATE" if late else "PUT", "bytes that nobody asks for")
            # Another worker's upload of the very same bytes was complete first: this one need not go on.
            self._acknowledge(incoming.peer, put.digest, self._blobs.path(put.digest).stat().st_size)
            return []
        self._received[key] = self._received.get(key, 0) + len(incoming.frames[0]) + len(payload)
        if payload:
            # A piece that is not the next one changes nothing: the answer says where to go on.
            part.append(put.offset, payload)
        stored: list[Stored] = []
        offset = part.offset
        if offset == part.total:
            try:
                part.finish()
                # Training is deterministic, so two workers may send the very same update: it is here for all of them.
                stored = self._over(None, put.digest, self._blobs.read(put.digest))
            except RemoteProtocolError:
                if key in self._damaged:
                    return self._over(*key, None)
                # Damaged on the way, perhaps: acknowledging none asks for all of it once more.
                self._damaged.add(key)
                self._parts[key] = self._blobs.partial(put.digest, part.total, key[0])
                offset = 0
        self._acknowledge(incoming.peer, put.digest, offset)
        return stored

    def _sender(self, put: m.Put, owner: str) -> str:
        """Whose bytes these are: a nonce opens the door only to the worker that it was given to."""
        for (worker, _), offer in self._uploads.items():
            if (offer.nonce, offer.blob.digest) == (put.nonce, put.digest) and owner in ("", worker):
                return worker
        return ""

    def _over(self, worker: str | None, digest: str, content: bytes | None) -> list[Stored]:
        """Uploads of this digest, of one worker or of all, end so."""
        over = {
            key: offer
            for key, offer in self._uploads.items()
            if offer.blob.digest == digest and worker in (None, key[0])
        }
        received = {name: self._received.pop((name, digest), 0) for name in {name for name, _ in over}}
        self._keep({key: offer for key, offer in self._uploads.items() if key not in over})
        # Of several tasks with the very same update, the first is charged.
        return [Stored(name, offer, content, received.pop(name, 0)) for (name, _), offer in over.items()]

    def _keep(self, uploads: dict[tuple[str, str], m.Offer]) -> None:
        """Go on with these uploads only."""
        self._uploads = uploads
        wanted = {(worker, offer.blob.digest) for (worker, _), offer in uploads.items()}
        self._damaged &= wanted
        self._received = {key: nbytes for key, nbytes in self._received.items() if key in wanted}
        for key in [key for key in self._parts if key not in wanted]:
            self._parts.pop(key).discard()

    def _acknowledge(self, peer: bytes, digest: str, offset: int) -> None:
        self._transport.send("data", peer, self._out.encode(m.PutAck(digest, offset)))
