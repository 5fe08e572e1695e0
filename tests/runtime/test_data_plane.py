"""The worker's transfers against the coordinator's intake: both ends of the data plane, and messages that get lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from receiving import CONTENT, TASK, Bench
from serving import offer, started

from fedmq.protocol import messages as m
from fedmq.runtime.intake import Intake


def test_both_ends_together(tmp_path: Path) -> None:
    """The worker's transfers against the coordinator's intake, in both directions, a lost message in each."""
    bench = Bench(tmp_path)
    server = started(tmp_path / "run")
    intake = Intake(bench.listener, server)
    update = offer(TASK, CONTENT)
    (tmp_path / "update").write_bytes(CONTENT)
    intake.offered("w0", update)
    assert intake.expect("w0", TASK) is None
    large = server.blobs.add(CONTENT[::-1] * 5)
    bench.transfers.upload(update, tmp_path / "update")
    bench.transfers.fetch(m.BlobRef(large, 5 * len(CONTENT)))
    stored: list[Any] = []
    now, lost, fetched = 0.0, 0, None
    while not stored or fetched is None:
        for count, incoming in enumerate(bench.listener.receive(0.0).messages):
            if lost < 2 and count == 1:
                lost += 1
                continue
            stored += intake.take(incoming)
        for incoming in bench.worker.receive(0.0).messages:
            bench.transfers.take(incoming.frames)
        now += 1.0
        assert now < 300, "it goes on"
        bench.tick(now)
        fetched = fetched or bench.transfers.fetched()
    ((worker, offered, content, nbytes_up),) = stored
    assert (worker, offered, content, lost) == ("w0", update, CONTENT, 2)
    # A piece has a header of a hundred bytes or two, and what was lost came again.
    assert len(CONTENT) < nbytes_up < 2 * len(CONTENT)
    assert fetched[0] == large and 5 * len(CONTENT) < fetched[1] < 10 * len(CONTENT)
    assert bench.transfers.path(large).read_bytes() == CONTENT[::-1] * 5
    intake.close()
    bench.close()
