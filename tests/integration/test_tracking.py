"""Rounds of real runs in metrics.jsonl and in TensorBoard's event files, also after a kill."""

from __future__ import annotations

import json

from conftest import Federation
from running import accepted, digest_of, eventually

CLIENTS = ["client_0", "client_1"]


def test_after_a_kill_no_round_is_missing_or_twice(federation: Federation) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = federation.folder / "run"
    federated = {"num_clients": 2, "clients_per_round": 2, "num_rounds": 4}
    config = federation.config(federated=federated, tracking={"backends": ["tensorboard"]})
    coordinator = federation.coordinator(config)
    worker = federation.noop_worker(coordinator.address, "w0")
    eventually(lambda: accepted(run, 2), "an update of round 2")
    coordinator.process.kill()
    worker.kill()
    again = federation.coordinator(config, "--resume")
    federation.noop_worker(again.address, "w1")
    digest = again.ended_well()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in lines] == [0, 1, 2, 3, 4] and lines[-1]["digest"] == digest == digest_of(run)
    events = EventAccumulator(str(run / "tracking" / "tensorboard"))
    events.Reload()
    for client in CLIENTS:
        assert [event.step for event in events.Scalars(f"train_loss/{client}")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("bytes/up")] == [row["bytes_up"] for row in lines[1:]]


def test_a_tracker_that_cannot_write_ends_no_run(federation: Federation) -> None:
    config = federation.config(
        federated={"num_clients": 2, "clients_per_round": 2, "num_rounds": 2}, tracking={"backends": ["tensorboard"]}
    )
    run = federation.folder / "run"
    run.mkdir()
    (run / "tracking").write_text("a file, where a folder should be")
    coordinator = federation.coordinator(config)
    federation.noop_worker(coordinator.address, "w0")
    coordinator.ended_well()
    said = [line for line in coordinator.process.lines["stdout"] if "tracking" in line]
    assert len(said) == 1 and "tensorboard failed" in said[0] and "the run goes on without it" in said[0]
