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
    assert bench.asked() == [(m.Get(DIGEST, offset, CHUNK), b"") for offset in (0, 1000)]
    bench.chunk(0)
    assert bench.offsets() == [2000, 3000], "one piece in, and the link may carry one more"
    bench.chunk(1000)
    assert bench.offsets() == [4000], "one piece in, one more asked for"
    for offset in (2000, 3000, 4000):
        bench.chunk(offset)
    assert bench.transfers.fetched() is None
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, bench.nbytes[DIGEST])
    assert bench.transfers.fetched() is None, "said once"
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_the_last_piece_is_asked_for_by_its_size(bench: Bench) -> None:
    bench.transfers.fetch(m.BlobRef(DIGEST, 1500))
    assert bench.asked()[-1][0] == m.Get(DIGEST, 1000, 500)


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
    assert bench.transfers.fetched() == (DIGEST, bench.nbytes[DIGEST])
    assert len(CONTENT) - arrived <= bench.nbytes[DIGEST] < 1.2 * (len(CONTENT) - arrived) + 1
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_damaged_bytes_are_fetched_again(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    for offset in range(0, len(CONTENT), CHUNK):
        bench.chunk(offset, damaged=offset == 2000)
    assert bench.transfers.fetched() is None
    bench.asked()
    bench.transfers.fetch(BLOB)
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, bench.nbytes[DIGEST])


def test_a_held_adapter_that_rotted_is_fetched_again(bench: Bench) -> None:
    (bench.folder / "blobs" / DIGEST).write_bytes(b"rotten")
    bench.transfers.fetch(BLOB)
    bench.download()
    assert bench.transfers.fetched() == (DIGEST, bench.nbytes[DIGEST])
    assert bench.transfers.path(DIGEST).read_bytes() == CONTENT


def test_what_nobody_answers_is_asked_for_again(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    assert bench.offsets() == [0, 1000]
    bench.tick(3.0)
    bench.chunk(0)
    bench.asked()
    bench.tick(3.0 + 8 * 3.0 - 0.1)
    assert bench.asked() == [], "eight times as long as the slowest piece"
    bench.tick(3.0 + 8 * 3.0 + 0.1)
    assert bench.offsets() == [1000, 2000]


def test_on_a_fast_link_silence_is_noticed_soon(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    for offset in range(0, 8 * CHUNK, CHUNK):
        bench.chunk(offset)
    bench.asked()
    bench.tick(4.9)
    assert bench.asked() == []
    bench.tick(5.1)
    assert bench.offsets() == [8000, 9000]


def test_a_transfer_that_nothing_moves_says_so(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.asked()
    for now in (10.1, 20.2):
        bench.tick(now)
        assert bench.offsets() == [0, 1000] and not bench.transfers.stuck()
    bench.tick(30.3)
    assert bench.transfers.stuck() and not bench.transfers.stuck(), "said once"
    bench.tick(40.4)
    assert not bench.transfers.stuck()
    bench.tick(61.0)
    assert bench.transfers.stuck(), "and again when that did not help"


def test_what_could_not_be_sent_is_tried_again_soon(bench: Bench) -> None:
    bench.now = 100.0
    bench.listener.links.clear()
    bench.transfers.fetch(BLOB)
    bench.worker.rebuild()
    bench.tick(100.1)
    assert bench.asked() == []
    bench.tick(100.3)
    assert bench.offsets() == [0, 1000]


def test_what_the_link_did_not_take_is_sent_when_it_does_and_the_rest_not_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, room = bench.worker.send, [True, False, True]
    monkeypatch.setattr(bench.worker, "send", lambda *message: room.pop(0) and send(*message))
    bench.transfers.fetch(BLOB)
    assert bench.offsets() == [0]
    bench.tick(0.3)
    assert bench.offsets() == [1000]


def test_a_new_link_asks_again_at_once(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.chunk(0)
    bench.asked()
    bench.worker.rebuild()
    bench.transfers.rewind()
    assert bench.offsets() == [1000, 2000, 3000]
    bench.transfers.relinked()
    assert bench.offsets() == [1000, 2000, 3000]


def test_pieces_of_something_else_change_nothing(bench: Bench) -> None:
    bench.chunk(0)
    bench.transfers.fetch(BLOB)
    bench.asked()
    bench.answer(m.Chunk("ab" * 32, 0, 100), b"x" * 100)
    bench.chunk(1000)
    bench.answer(m.Chunk(DIGEST, 0, len(CONTENT)), CONTENT + b"more")
    assert bench.asked() == []
    bench.tick(11.0)
    assert bench.offsets() == [0, 1000]


def test_another_fetch_takes_the_place_of_the_first(bench: Bench) -> None:
    other = b"other" * 100
    digest = hashlib.sha256(other).hexdigest()
    bench.transfers.fetch(BLOB)
    bench.transfers.fetch(m.BlobRef(digest, len(other)))
    bench.chunk(0)
    bench.answer(m.Chunk(digest, 0, len(other)), other)
    assert bench.transfers.fetched() == (digest, bench.nbytes[digest])


def test_an_adapter_that_the_coordinator_does_not_have(bench: Bench) -> None:
    bench.transfers.fetch(BLOB)
    bench.answer(m.NotFound("ab" * 32))
    assert not bench.transfers.missing()
    bench.answer(m.NotFound(DIGEST))
    assert bench.transfers.missing() and not bench.transfers.missing(), "said once"
    bench.asked()
    bench.tick(60.0)
    assert bench.asked() == []


@pytest.mark.parametrize("frames", [(), (b"x",), (b"x", b"y"), (b"x", b"y", b"z")])
def test_frames_that_are_none(bench: Bench, frames: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        bench.transfers.take(frames)


# --- up --------------------------------------------------------------------------------------------


@pytest.fixture
def uploading(bench: Bench) -> Bench:
    (bench.folder / "update").write_bytes(CONTENT)
    assert bench.transfers.upload(offer(TASK, CONTENT), bench.folder / "update")
    return bench


def test_an_upload_keeps_its_window(uploading: Bench) -> None:
    sent = uploading.asked()
    assert [message.offset for message, _ in sent] == [0, 1000]
    assert b"".join(payload for _, payload in sent) == CONTENT[:2000]
    uploading.answer(m.PutAck(DIGEST, 1000))
    assert uploading.offsets() == [2000, 3000]
    uploading.answer(m.PutAck(DIGEST, 9000))
    assert uploading.offsets() == [9000, 10000], "the coordinator had more than we knew"


def test_an_upload_of_which_the_coordinator_threw_bytes_away(uploading: Bench) -> None:
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, 2000))
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, 0))
    assert uploading.offsets() == [0, 1000, 2000]


def test_a_silent_coordinator_is_asked_where_to_go_on(uploading: Bench) -> None:
    uploading.asked()
    uploading.tick(10.1)
    ((message, payload),) = uploading.asked()
    assert (message.offset, payload) == (0, b"")
    uploading.answer(m.PutAck(DIGEST, 2000))
    assert uploading.offsets() == [2000, 3000], "it only did not answer"


def test_a_new_link_of_the_data_plane_alone_asks_where_to_go_on(uploading: Bench) -> None:
    uploading.asked()
    uploading.transfers.relinked()
    ((message, payload),) = uploading.asked()
    assert (message.offset, payload) == (0, b"")


@pytest.mark.parametrize("content", [b"!" + CONTENT[1:], CONTENT[:-1], b"", None])
def test_an_update_that_was_damaged_on_disk_is_not_sent(bench: Bench, content: bytes | None) -> None:
    if content is not None:
        (bench.folder / "update").write_bytes(content)
    assert not bench.transfers.upload(offer(TASK, CONTENT), bench.folder / "update")
    bench.tick(60.0)
    assert bench.asked() == []


def test_an_upload_that_is_complete_or_forgotten_is_over(uploading: Bench) -> None:
    uploading.asked()
    uploading.answer(m.PutAck(DIGEST, len(CONTENT)))
    uploading.tick(60.0)
    assert uploading.asked() == []
    uploading.transfers.upload(offer(TASK, CONTENT), uploading.folder / "update")
    uploading.transfers.forget(TASK)
    uploading.transfers.forget(TASK)
    uploading.asked()
    uploading.tick(120.0)
    assert uploading.asked() == []


def test_a_new_link_sends_nothing_unasked(uploading: Bench) -> None:
    uploading.asked()
    uploading.worker.rebuild()
    uploading.transfers.rewind()
    uploading.transfers.relinked()
    uploading.tick(60.0)
    uploading.answer(m.PutAck(DIGEST, 1000))
    assert uploading.asked() == [], "the coordinator grants it anew"
    (uploading.folder / "update").unlink()
    assert uploading.transfers.upload(offer(TASK, CONTENT), uploading.folder / "update"), "it is in memory"
    ((message, payload),) = uploading.asked()
    assert (message.offset, payload) == (1000, b"")
    uploading.answer(m.PutAck(DIGEST, 1000))
    assert uploading.offsets() == [1000, 2000]


# --- how fast --------------------------------------------------------------------------------------


def test_pieces_follow_what_the_link_carries(bench: Bench) -> None:
    """256 kbit/s, then 100 Mbit/s: a piece takes 0.2 to 2 s, and each byte is sent once."""
    content = bytes(8 << 20)
    blob = m.BlobRef(hashlib.sha256(content).hexdigest(), len(content))
    bench.transfers.configure(1 << 20, 8, bench.codec)
    bench.transfers.fetch(blob)
    sizes, asked, now = [], 0, 0.0
    queue = [message for message, _ in bench.asked()]
    while queue:
        get = queue.pop(0)
        asked += get.nbytes
        now += get.nbytes / (32e3 if get.offset < 500_000 else 12.5e6)
        bench.tick(now)
        sizes.append((get.offset, get.nbytes))
        bench.answer(m.Chunk(blob.digest, get.offset, blob.nbytes), content[: get.nbytes])
        queue += [message for message, _ in bench.asked()]
    assert bench.transfers.fetched() == (blob.digest, bench.nbytes[blob.digest])
    assert asked == blob.nbytes
    slow = [nbytes / 32e3 for offset, nbytes in sizes if offset < 500_000]
    assert slow[0] == pytest.approx(2.048) and all(0.2 < seconds <= 2.0 for seconds in slow[2:])
    assert max(nbytes for _, nbytes in sizes) == 1 << 20, "it grows as soon as it may"


def test_the_next_transfer_knows_what_the_last_one_learnt(bench: Bench) -> None:
    bench.transfers.configure(1 << 20, 8, bench.codec)
    bench.transfers.fetch(m.BlobRef("ab" * 32, 1 << 23))
    (first, _), _ = bench.asked()
    bench.tick(10.1)
    bench.asked()
    bench.transfers.configure(1 << 20, 8, bench.codec)
    bench.transfers.fetch(m.BlobRef("cd" * 32, 1 << 23))
    (second, _), _ = bench.asked()
    assert (first.nbytes, second.nbytes) == (64 << 10, 32 << 10)
