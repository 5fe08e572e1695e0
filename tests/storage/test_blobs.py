"""Blobs: named by their content, whole or not there, and resumed where they stopped."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.errors import RemoteProtocolError, StorageError
from fedmq.storage.blobs import BlobStore

CONTENT = bytes(range(256)) * 5
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.folder.iterdir())


def test_add_read_remove(blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)
    assert blobs.add(CONTENT) == DIGEST
    assert blobs.has(DIGEST) and blobs.read(DIGEST) == CONTENT
    assert blobs.add(CONTENT) == DIGEST and files(blobs) == [DIGEST]
    blobs.remove(DIGEST)
    blobs.remove(DIGEST)
    assert not blobs.has(DIGEST) and files(blobs) == []


def test_one_that_somebody_removed_is_missed_in_one_line(blobs: BlobStore) -> None:
    """Who tidies up may take them for a cache."""
    assert blobs.nbytes(blobs.add(CONTENT)) == len(CONTENT)
    blobs.path(DIGEST).unlink()
    for use in (blobs.nbytes, blobs.read):
        with pytest.raises(StorageError, match=f"{DIGEST} is gone: .* put it back from a copy of this folder"):
            use(DIGEST)


@pytest.mark.parametrize(
    "name",
    ["", "../../etc/passwd", "ab" * 31, "ab" * 33, "AB" * 32, "ab" * 31 + "..", "g" * 64, "ab" * 31 + "/a", "é" * 64],
)
def test_only_digests_become_paths(blobs: BlobStore, name: str) -> None:
    for use in (blobs.path, blobs.has, blobs.read, blobs.remove, lambda n: blobs.partial(n, 10)):
        with pytest.raises(ValueError, match="not a SHA-256"):
            use(name)
    assert files(blobs) == []


def test_a_file_that_rotted_is_not_handed_out(blobs: BlobStore) -> None:
    blobs.path(DIGEST).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(RemoteProtocolError, match="BLOB"):
        BlobStore(blobs.folder).read(DIGEST)


def test_a_blob_piece_by_piece(blobs: BlobStore) -> None:
    part = blobs.partial(DIGEST, len(CONTENT))
    for offset in range(0, len(CONTENT), 100):
        assert not blobs.has(DIGEST)
        assert part.append(offset, CONTENT[offset : offset + 100])
    part.finish()
    assert files(blobs) == [DIGEST] and blobs.read(DIGEST) == CONTENT


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 10), (99, 10), (101, 10), (10**18, 10), (100, len(CONTENT))])
def test_a_piece_that_is_not_the_next_changes_nothing(blobs: BlobStore, offset: int, nbytes: int) -> None:
    part = blobs.partial(DIGEST, len(CONTENT))
    assert part.append(0, CONTENT[:100])
    assert not part.append(offset, bytes(nbytes))
    assert part.append(100, CONTENT[100:])
    part.finish()
    assert blobs.read(DIGEST) == CONTENT


def test_what_has_arrived_is_kept_for_the_next_process(blobs: BlobStore) -> None:
    part = blobs.partial(DIGEST, len(CONTENT))
    part.append(0, CONTENT[:300])
    part.close()
    part = BlobStore(blobs.folder).partial(DIGEST, len(CONTENT))
    assert part.offset == 300
    assert part.append(300, CONTENT[300:])
    part.finish()
    assert blobs.read(DIGEST) == CONTENT


def test_what_two_senders_send_is_kept_apart(blobs: BlobStore) -> None:
    parts = [blobs.partial(DIGEST, len(CONTENT), sender) for sender in ("north", "../south")]
    assert parts[0].append(0, bytes(300)) and parts[1].offset == 0
    assert {part.path.parent for part in parts} == {blobs.folder}
    blobs.discard_partials({parts[1].path})
    assert files(blobs) == [parts[1].path.name]
    assert parts[1].append(0, CONTENT)
    parts[1].finish()
    parts[0].close()
    assert files(blobs) == [DIGEST]


def test_a_part_longer_than_the_blob_is_begun_anew(blobs: BlobStore) -> None:
    part = blobs.partial(DIGEST, len(CONTENT) + 50)
    part.append(0, CONTENT + b"x" * 50)
    part.close()
    part = blobs.partial(DIGEST, len(CONTENT))
    assert part.offset == 0
    assert part.append(0, CONTENT)
    part.finish()
    assert blobs.read(DIGEST) == CONTENT


@pytest.mark.parametrize("resumed", [False, True])
def test_other_bytes_than_announced_are_thrown_away(blobs: BlobStore, resumed: bool) -> None:
    part = blobs.partial(DIGEST, len(CONTENT))
    part.append(0, b"!" + CONTENT[1:300])
    if resumed:
        part.close()
        part = blobs.partial(DIGEST, len(CONTENT))
    part.append(300, CONTENT[300:])
    with pytest.raises(RemoteProtocolError, match="BLOB"):
        part.finish()
    assert files(blobs) == []
    part = blobs.partial(DIGEST, len(CONTENT))
    assert part.offset == 0
    part.close()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=40))
def test_pieces_in_any_order_give_the_blob_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]]
) -> None:
    content = CONTENT[:60]
    blobs = BlobStore(tmp_path_factory.mktemp("blobs"), durable=False)
    digest = hashlib.sha256(content).hexdigest()
    part = blobs.partial(digest, len(content))
    for offset, nbytes in pieces:
        before = part.offset
        taken = part.append(offset, content[offset : offset + nbytes])
        assert part.offset == (before + len(content[offset : offset + nbytes]) if taken else before)
    if part.offset == part.total:
        part.finish()
        assert blobs.read(digest) == content
    else:
        part.close()
        assert not blobs.has(digest)
