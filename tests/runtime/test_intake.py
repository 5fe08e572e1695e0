"""The coordinator's data plane, over the memory transport: uploads in, adapters out, nothing unasked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import NONCE, make_server, offer, started

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.runtime.intake import MAX_BLOB_NBYTES, Intake, Stored
from fedmq.runtime.server import FederatedServer
from fedmq.transport.base import Incoming
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport

CONTENT = bytes(range(256)) * 10
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TASK, OTHER = "train-1-client_1-0", "ef" * 16
OUT, IN = Codec(m.DATA_TO_COORDINATOR), Codec(m.DATA_TO_WORKER)


def told(stored: list[Stored]) -> list[Stored]:
    """Who sent what: the bytes that it took are a test's of their own."""
    return [each._replace(nbytes=0) for each in stored]


class Bench:
    """An intake, and workers that write to it by hand."""

    def __init__(self, server: FederatedServer) -> None:
        self.server, self.listener = server, MemoryCoordinatorTransport()
        self.intake = Intake(self.listener, server)
        self.worker = self.connect()

    def connect(self) -> MemoryWorkerTransport:
        worker = MemoryWorkerTransport(self.listener)
        worker.dial_data(self.listener.data_port)
        return worker

    def say(self, message: Any, payload: bytes = b"", worker: MemoryWorkerTransport | None = None) -> list[Any]:
        """Send one message to the intake; the uploads that it completed."""
        assert (worker or self.worker).send("data", OUT.encode(message), payload)
        (incoming,) = self.listener.receive(1.0).messages
        return told(self.intake.take(incoming))

    def heard(self, worker: MemoryWorkerTransport | None = None) -> list[tuple[Any, bytes]]:
        """What the intake answered."""
        messages = (worker or self.worker).receive(0.0).messages
        return [(IN.decode(message.frames[0]), message.frames[1]) for message in messages]

    def put(self, offset: int, nbytes: int = 1000, nonce: str = NONCE, **options: Any) -> list[Any]:
        return self.say(m.Put(nonce, DIGEST, offset), CONTENT[offset : offset + nbytes], **options)

    def granted(self, worker: str = "w0", **fields: Any) -> m.Offer:
        """An offer that was granted."""
        update = offer(fields.pop("task", TASK), CONTENT, **fields)
        self.intake.offered(worker, update)
        assert self.intake.expect(worker, update.task) is None
        return update


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(started(tmp_path))
    yield bench
    bench.intake.close()


def acked(offset: int) -> list[tuple[Any, bytes]]:
    return [(m.PutAck(DIGEST, offset), b"")]


def test_an_upload_in_order(bench: Bench) -> None:
    update = bench.granted()
    for offset in (0, 1000):
        assert bench.put(offset) == []
        assert bench.heard() == acked(offset + 1000)
    assert bench.put(2000) == [("w0", update, CONTENT, 0)]
    assert bench.heard() == acked(len(CONTENT))
    assert bench.server.blobs.read(DIGEST) == CONTENT, "durable before it is acknowledged"


def test_what_crossed_the_wire_is_counted(bench: Bench) -> None:
    """Headers, questions and repeats too; of two workers with one update each for its own, and of two tasks once."""
    bench.granted()
    bench.granted(task="train-2-client_1-0")
    bench.granted("w1")
    sent, header = 0, len(OUT.encode(m.Put(NONCE, DIGEST, 0)))
    for offset, nbytes in ((0, 1000), (0, 1000), (1000, 0), (1000, 500)):
        assert bench.put(offset, nbytes) == []
        sent += header + nbytes + 2 * (offset > 0)
    bench.worker.send("data", OUT.encode(m.Put(NONCE, DIGEST, 1500)), CONTENT[1500:])
    (last,) = bench.listener.receive(1.0).messages
    stored = bench.intake.take(last)
    sent += header + 2 + len(CONTENT) - 1500
    assert sorted((each.worker, each.nbytes) for each in stored) == [("w0", 0), ("w0", sent), ("w1", 0)]


def test_a_piece_out_of_order_is_answered_with_where_to_go_on(bench: Bench) -> None:
    bench.granted()
    bench.put(0)
    bench.heard()
    for offset in (2000, 0, 999, 1001):
        assert bench.put(offset) == []
        assert bench.heard() == acked(1000)
    bench.put(1000)
    assert len(bench.put(2000)) == 1


def test_an_empty_piece_asks_where_to_go_on(bench: Bench) -> None:
    bench.granted()
    bench.put(0)
    bench.heard()
    assert bench.say(m.Put(NONCE, DIGEST, 0)) == []
    assert bench.heard() == acked(1000)


def test_bytes_that_nobody_asked_for(bench: Bench) -> None:
    with pytest.raises(RemoteProtocolError, match="PUT"):
        bench.put(0)
    bench.granted()
    for message in (m.Put("00" * 16, DIGEST, 0), m.Put(NONCE, "ab" * 32, 0)):
        with pytest.raises(RemoteProtocolError, match="PUT"):
            bench.say(message, b"x")
    assert bench.say(m.Put(NONCE, "ab" * 32, 0)) == [], "a question is not worth a note"
    assert bench.heard() == []
    assert not bench.server.blobs.has(DIGEST)


def test_an_offer_that_was_declined(bench: Bench) -> None:
    bench.intake.offered("w0", offer(TASK, CONTENT))
    bench.intake.decline("w0", TASK)
    bench.intake.decline("w0", "train-1-client_9-0")
    with pytest.raises(RemoteProtocolError, match="PUT"):
        bench.put(0)


@pytest.mark.parametrize("nbytes", [0, MAX_BLOB_NBYTES + 1, 2**53 - 1])
def test_a_size_that_no_adapter_has(bench: Bench, nbytes: int) -> None:
    with pytest.raises(RemoteProtocolError, match="SIZE"):
        bench.intake.offered("w0", offer(TASK, CONTENT, blob=m.BlobRef(DIGEST, nbytes)))


def test_more_bytes_than_announced(bench: Bench) -> None:
    bench.granted()
    assert bench.say(m.Put(NONCE, DIGEST, 0), CONTENT + b"more") == []
    assert bench.heard() == acked(0)
    assert len(bench.put(0, len(CONTENT))) == 1


def test_damaged_bytes_are_asked_for_again(bench: Bench) -> None:
    update = bench.granted()
    bench.say(m.Put(NONCE, DIGEST, 0), b"!" + CONTENT[1:1000])
    assert bench.put(1000, len(CONTENT)) == []
    assert bench.heard() == acked(1000) + acked(0)
    assert bench.put(0, len(CONTENT)) == [("w0", update, CONTENT, 0)]


def test_two_workers_with_the_very_same_update(bench: Bench) -> None:
    """Training is deterministic: whoever is through first has sent it for both, and both are told."""
    other = bench.connect()
    first = bench.granted("w0")
    second = bench.granted("w1", task="train-1-client_1-1", nonce=OTHER)
    bench.put(0)
    assert bench.put(0, nonce=OTHER, worker=other) == []
    assert bench.put(1000) == []
    assert bench.put(2000) == [("w0", first, CONTENT, 0), ("w1", second, CONTENT, 0)]
    bench.heard(other)
    bench.put(1000, nonce=OTHER, worker=other)
    assert bench.heard(other) == acked(len(CONTENT)), "what it still sends is answered with: complete"
    assert list(bench.server.blobs.folder.glob("*.part")) == []


def refusal(stored: Any) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        stored.checked()
    return caught.value.code


def test_somebody_elses_digest_with_another_size_harms_nobody_else(bench: Bench) -> None:
    thief, blob = bench.connect(), m.BlobRef(DIGEST, 1500)
    bench.granted("thief", task="train-1-client_1-1", nonce=OTHER, blob=blob)
    update = bench.granted("w0")
    bench.put(0, 1500, nonce=OTHER, worker=thief)
    assert bench.heard(thief) == acked(0), "1,500 bytes are here, and are not what the digest says"
    bench.put(0)
    stolen, mine = bench.put(1000, len(CONTENT))
    assert mine == ("w0", update, CONTENT, 0) and mine.checked() == CONTENT
    assert (stolen.worker, refusal(stolen)) == ("thief", "SIZE")


def test_bad_bytes_under_somebody_elses_digest_harm_nobody_else(bench: Bench) -> None:
    thief = bench.connect()
    bench.granted("thief", task="train-1-client_1-1", nonce=OTHER)
    update = bench.granted("w0")
    bench.put(0)
    bench.say(m.Put(OTHER, DIGEST, 0), bytes(2000), worker=thief)
    assert bench.heard() == acked(1000)
    stored = bench.put(1000, len(CONTENT))
    assert stored[-1] == ("w0", update, CONTENT, 0)


def test_bytes_that_are_wrong_twice_are_refused(bench: Bench) -> None:
    update = bench.granted()
    assert bench.say(m.Put(NONCE, DIGEST, 0), bytes(len(CONTENT))) == []
    assert bench.heard() == acked(0), "damaged on the way, perhaps"
    (stored,) = bench.say(m.Put(NONCE, DIGEST, 0), bytes(len(CONTENT)))
    assert (stored, refusal(stored)) == (("w0", update, None, 0), "BLOB")
    assert bench.heard() == []
    assert [path for path in bench.server.blobs.folder.iterdir() if path.name.startswith(DIGEST)] == []
    with pytest.raises(RemoteProtocolError, match="LATE"):
        bench.put(0)
    assert bench.granted() == update, "trained again it is as good as any"
    assert bench.put(0, len(CONTENT)) == [("w0", update, CONTENT, 0)]


def test_an_offer_made_again_with_another_size_begins_again(bench: Bench) -> None:
    bench.granted(blob=m.BlobRef(DIGEST, 700))
    update = bench.granted()
    assert bench.put(0, len(CONTENT)) == [("w0", update, CONTENT, 0)]


def test_a_stored_update_that_rotted_is_asked_for_again(bench: Bench) -> None:
    bench.server.blobs.path(DIGEST).write_bytes(b"rotten")
    update = bench.granted()
    assert bench.put(0, len(CONTENT)) == [("w0", update, CONTENT, 0)]


def test_parts_of_an_earlier_process_that_nobody_offers_again_go_with_their_round(bench: Bench) -> None:
    left = bench.server.blobs.partial("ab" * 32, 100, "w9")
    left.append(0, b"x")
    left.close()
    bench.granted(task="train-2-client_1-0")
    bench.intake.forget_before(2)
    (kept,) = bench.server.blobs.folder.glob("*.part")
    assert kept.name.startswith(DIGEST)


def test_bytes_that_are_here_are_not_sent(bench: Bench) -> None:
    bench.server.blobs.add(CONTENT)
    update = offer(TASK, CONTENT)
    bench.intake.offered("w0", update)
    held = bench.intake.expect("w0", TASK)
    assert held == ("w0", update, CONTENT, 0), "nothing crossed the wire"


@pytest.mark.parametrize("nbytes", [1000, len(CONTENT)])
def test_an_upload_goes_on_after_a_restart(bench: Bench, nbytes: int) -> None:
    """Also one that was complete but for its name."""
    bench.granted()
    if nbytes < len(CONTENT):
        bench.put(0, nbytes)
    else:
        part = bench.server.blobs.partial(DIGEST, len(CONTENT), "w0")
        part.append(0, CONTENT)
        part.close()
    bench.intake.close()
    again = Bench(bench.server)
    update = again.granted()
    stored = again.say(m.Put(NONCE, DIGEST, 0))
    assert again.heard() == acked(nbytes)
    stored += again.put(nbytes, len(CONTENT)) if not stored else []
    assert stored == [("w0", update, CONTENT, 0)]


def test_adapters_out(bench: Bench) -> None:
    digest = bench.server.journal.digest(0)
    content = bench.server.blobs.read(digest)
    for offset, nbytes in ((0, 100), (100, 2**53 - 1), (len(content), 5), (2**53 - 1, 5), (0, 0)):
        bench.say(m.Get(digest, offset, nbytes))
        ((chunk, payload),) = bench.heard()
        assert chunk == m.Chunk(digest, offset, len(content))
        assert payload == content[offset : offset + nbytes]


def test_no_piece_is_larger_than_a_chunk(bench: Bench) -> None:
    large = bench.server.blobs.add(bytes(3 * bench.intake.chunk_nbytes))
    bench.say(m.Get(large, 0, 2**53 - 1))
    assert len(bench.heard()[0][1]) == bench.intake.chunk_nbytes


def test_what_is_not_here(bench: Bench) -> None:
    bench.say(m.Get("ab" * 32, 0, 10))
    assert bench.heard() == [(m.NotFound("ab" * 32), b"")]


def test_an_adapter_that_rotted_is_not_sent_and_who_asks_is_told(bench: Bench) -> None:
    digest = bench.server.journal.digest(0)
    bench.server.blobs.path(digest).write_bytes(b"rotten")
    again = Bench(make_server(bench.server.run_dir))
    with pytest.raises(RemoteProtocolError, match="BLOB"):
        again.say(m.Get(digest, 0, 10))
    assert again.heard() == [(m.NotFound(digest), b"")]


@pytest.mark.parametrize("frames", [(), (b"x",), (b"x", b"y", b"z"), (b"x", b"y")])
def test_frames_that_are_none(bench: Bench, frames: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        bench.intake.take(Incoming("data", b"1", frames))


def test_a_nonce_counts_for_the_worker_that_it_was_given_to(bench: Bench) -> None:
    update = bench.granted("north")
    frames = (OUT.encode(m.Put(NONCE, DIGEST, 0)), CONTENT)
    with pytest.raises(RemoteProtocolError, match="PUT"):
        bench.intake.take(Incoming("data", b"1", frames, "south"))
    assert told(bench.intake.take(Incoming("data", b"2", frames, "north"))) == [("north", update, CONTENT, 0)]


def test_what_a_revoked_worker_offered_is_not_wanted_from_another(bench: Bench) -> None:
    bench.granted("north", num_examples=10**6)
    bench.intake.offered("north", offer("train-1-client_0-0", b"later"))
    bench.intake.revoke("north")
    own = bench.granted("south")
    assert bench.put(0, nbytes=len(CONTENT)) == [("south", own, CONTENT, 0)]
