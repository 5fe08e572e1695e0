"""With keys: bytes count for the worker whose key brings them, on the data plane too, where no name is said."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
from curve_door import Door, knock
from serving import NONCE, offer, started

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.runtime.intake import Intake

CONTENT = bytes(range(256)) * 10
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PUT = Codec(m.DATA_TO_COORDINATOR).encode(m.Put(NONCE, DIGEST, 0))


def test_bytes_of_another_key_are_refused_though_nonce_and_digest_are_right(tmp_path: Path) -> None:
    server, door = started(tmp_path), Door(tmp_path / "door")
    with (
        closing(door.listener),
        closing(Intake(door.listener, server)) as intake,
        door.worker(door.north) as north,
        door.worker(door.allowed("south")) as south,
    ):
        update = offer("train-1-client_1-0", CONTENT)
        intake.offered("north", update)
        assert intake.expect("north", update.task) is None
        knock(door, south, PUT, "data", CONTENT)
        door.until(lambda: len(door.messages) == 1)
        with pytest.raises(RemoteProtocolError, match="PUT"):
            intake.take(door.messages[0])
        assert not server.blobs.has(DIGEST)
        knock(door, north, PUT, "data", CONTENT)
        door.until(lambda: len(door.messages) == 2)
        (stored,) = intake.take(door.messages[1])
        assert (stored.worker, stored.offer, stored.content) == ("north", update, CONTENT)
