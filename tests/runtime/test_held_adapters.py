"""A worker's copies of the global adapter: two at most, also of those that an earlier process left."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedmq.protocol.messages import BlobRef, DeltaRef
from fedmq.runtime.held_adapters import HeldAdapters
from fedmq.storage.blobs import BlobStore


def test_the_base_of_a_delta_is_in_hand_and_goes_when_two_newer_ones_are(tmp_path: Path) -> None:
    contents = [b"left behind", b"first", b"second"]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    store = BlobStore(tmp_path, durable=False)
    for content in contents:
        store.add(content)
    held = HeldAdapters(store)
    assert held.base_of(DeltaRef((digests[0],), BlobRef("0" * 64, 1))) == digests[0]
    assert all(map(store.has, digests))
    held.used(digests[1])
    held.used(digests[2])
    assert [store.has(digest) for digest in digests] == [False, True, True]
