"""The worker's data plane, over the memory transport: adapters down, updates up, whatever gets lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from receiving import CHUNK, CONTENT, DIGEST, TASK, Bench
from serving import offer

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m

BLOB = m.BlobRef(DIGEST, len(CONTENT))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


# --- down ------------------------------------------------------------------------------------------


def test_a_download_keeps_its_window(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    assert bench.asked() == [(m.Get(DIGEST, offset, CHUNK), b"") for offset in (0, 1000, 2000)]
    bench.chunk(0)
    assert bench.offsets() == [3000], "one piece in, one more asked for"
    for offset in (1000, 2000, 3000):
        bench.chunk(offset)
    assert bench.transfers.fetched() is None
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, len(CONTENT))
    assert bench.transfers.fetched() is None, "said once"
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_the_last_piece_is_asked_for_by_its_size(bench: Bench) -> None:
    bench.transfers.fetch(m.BlobRef(DIGEST, 2500))
    assert bench.asked()[-1][0] == m.Get(DIGEST, 2000, 500)


def test_a_held_adapter_is_not_downloaded(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.download()
    bench.transfers.fetched()
    bench.transfers.fetch(BLOB)
    assert bench.asked() == []
    assert bench.transfers.fetched() == (DIGEST, 0)


def test_only_the_last_two_adapters_are_kept(bench: Bench) -> None:
    folder = bench.folder / "blobs"
    digests = []
    for k in range(4):
        content = bytes([k]) * 10
        digests.append(hashlib.sha256(content).hexdigest())
        bench.transfers.fetch(m.BlobRef(digests[-1], 10))
        bench.answer(m.Chunk(digests[-1], 0, 10), content)
    assert {path.name for path in folder.iterdir()} == set(digests[-2:])


@pytest.mark.parametrize("arrived", [1000, 3000, len(CONTENT)])
def test_a_download_goes_on_after_a_restart(bench: Bench, arrived: int) -> None:
    """Also one that was complete but for its name."""
    bench.transfers.fetch(BLOB)
    part = bench.transfers._download.part  # type: ignore[union-attr]
    part.append(0, CONTENT[:arrived])
    bench.transfers.close()
    bench.asked()
    bench.restart()
    bench.transfers.fetch(BLOB)
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, len(CONTENT) - arrived)
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_damaged_bytes_are_fetched_again(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    for offset in range(0, len(CONTENT), CHUNK):
        bench.chunk(offset, damaged=offset == 2000)
    assert bench.transfers.fetched() is None
    bench.asked()
    bench.transfers.fetch(BLOB)
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, len(CONTENT))


def test_a_held_adapter_that_rotted_is_fetched_again(bench: Bench) -> None:
    (bench.folder / "blobs" / DIGEST).write_bytes(b"rotten")
    bench.transfers.fetch(BLOB)
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, len(CONTENT))
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_what_nobody_answers_is_asked_for_again(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    assert bench.offsets() == [0, 1000, 2000]
    bench.chunk(0)
    bench.asked()
    bench.transfers.tick(4.9)
    assert bench.asked() == []
    bench.transfers.tick(5.1)
    assert bench.offsets() == [1000, 2000, 3000]


def test_what_could_not_be_sent_is_tried_again_soon(bench: Bench) -> None:
    bench.transfers.tick(100.0)
    bench.listener.links.clear()
    bench.transfers.fetch(BLOB)
    bench.worker.rebuild()
    bench.transfers.tick(100.1)
    assert bench.asked() == []
    bench.transfers.tick(100.3)
    assert bench.offsets() == [0, 1000, 2000]


def test_a_new_link_asks_again_at_once(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.chunk(0)
    bench.asked()
    bench.worker.rebuild()
    bench.transfers.rewind()
    assert bench.offsets() == [1000, 2000, 3000]


def test_pieces_of_something_else_change_nothing(bench: Bench) -> None:
    bench.chunk(0)
    bench.transfers.fetch(BLOB)
    bench.asked()
    bench.answer(m.Chunk("ab" * 32, 0, 100), b"x" * 100)
    bench.chunk(1000)
    bench.answer(m.Chunk(DIGEST, 0, len(CONTENT)), CONTENT + b"more")
    assert bench.asked() == []
    bench.transfers.tick(6.0)
    assert bench.offsets() == [0, 1000, 2000]


def test_another_fetch_takes_the_place_of_the_first(bench: Bench) -> None:
    other = b"other" * 100
    digest = hashlib.sha256(other).hexdigest()
    bench.transfers.fetch(BLOB)
    bench.transfers.fetch(m.BlobRef(digest, len(other)))
    bench.chunk(0)
    bench.answer(m.Chunk(digest, 0, len(other)), other)
    assert bench.transfers.fetched() == (digest, len(other))


def test_an_adapter_that_the_coordinator_does_not_have(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.answer(m.NotFound("ab" * 32))
    assert not bench.transfers.missing()
    bench.answer(m.NotFound(DIGEST))
    assert bench.transfers.missing() and not bench.transfers.missing(), "said once"
    bench.asked()
    bench.transfers.tick(60.0)
    assert bench.asked() == []


@pytest.mark.parametrize("frames", [(), (b"x",), (b"x", b"y"), (b"x", b"y", b"z")])
def test_frames_that_are_none(bench: Bench, frames: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        bench.transfers.take(frames)


# --- up --------------------------------------------------------------------------------------------


@pytest.fixture
def uploading(bench: Bench) -> Bench:
    (bench.folder / "update").write_bytes(CONTENT)
    bench.transfers.upload(offer(TASK, CONTENT), bench.folder / "update")
    return bench


def test_an_upload_keeps_its_window(uploading: Bench) -> None:
    sent = uploading.asked()
    assert [message.offset for message, _ in sent] == [0, 1000, 2000]
    assert b"".join(payload for _, payload in sent) == CONTENT[:3000]
    uploading.answer(m.PutAck(DIGEST, 1000))
    assert uploading.offsets() == [3000]
    uploading.answer(m.PutAck(DIGEST, 9000))
    assert uploading.offsets() == [9000, 10000], "the coordinator had more than we knew"


def test_an_upload_of_which_the_coordinator_threw_bytes_away(uploading: Bench) -> None:
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, 3000))
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, 0))
    assert uploading.offsets() == [0, 1000, 2000]


def test_a_silent_coordinator_is_asked_where_to_go_on(uploading: Bench) -> None:
    uploading.asked()
    uploading.transfers.tick(5.1)
    ((message, payload),) = uploading.asked()
    assert (message.offset, payload) == (0, b"")


def test_an_upload_that_is_complete_or_forgotten_is_over(uploading: Bench) -> None:
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, len(CONTENT)))
    uploading.transfers.tick(60.0)
    assert uploading.asked() == []
    uploading.transfers.upload(offer(TASK, CONTENT), uploading.folder / "update")
    uploading.transfers.forget(TASK)
    uploading.transfers.forget(TASK)
    uploading.asked()
    uploading.transfers.tick(120.0)
    assert uploading.asked() == []


def test_a_new_link_sends_nothing_unasked(uploading: Bench) -> None:
    uploading.asked()
    uploading.worker.rebuild()
    uploading.transfers.rewind()
    uploading.transfers.tick(60.0)
    assert uploading.asked() == [], "the coordinator grants it anew"
