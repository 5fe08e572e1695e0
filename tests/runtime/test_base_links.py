"""A base that grows, from the server's rounds to the worker's files, whoever joins late or loses a link."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from both_ends import CLIENTS, Ends, adapter_of, play, task
from serving import give, make_server, started

from fedmq.algorithms.aggregate import fedavg
from fedmq.algorithms.lora_exact import fedex
from fedmq.build_rules import require_base_can_grow
from fedmq.codec import raw
from fedmq.codec.base_link import BaseLink
from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError, RemoteProtocolError, RunError, StorageError
from fedmq.protocol.messages import BlobRef, Chunk
from fedmq.runtime.base_links import Chain
from fedmq.runtime.server import FederatedServer
from fedmq.storage.checkpoint import CONFIG, MERGED, WEIGHTS

A, B = "h.0.attn.lora_A.weight", "h.0.attn.lora_B.weight"
OPTIONS = {"aggregator": fedex(), "num_rounds": 9}


def product(tensors: Any) -> np.ndarray:
    return np.asarray(tensors[B], np.float64) @ tensors[A]


def grown(server: FederatedServer, version: int) -> np.ndarray:
    """What a version adds to the weights: its links, and its adapter."""
    links = [BaseLink.decoded(server.blobs.read(link)).factors for link in server.journal.links(version)]
    return product(adapter_of(server, version)) + sum(map(product, links))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Three rounds with a link each; the worker holds version 1."""
    ends = Ends(tmp_path, **OPTIONS)
    ends.round(1)
    ends.fetch(1)
    ends.round(2)
    ends.round(3)
    yield ends
    ends.bench.close()


def test_a_round_ends_with_the_mean_of_the_clients_models(tmp_path: Path) -> None:
    server = started(tmp_path, **OPTIONS)
    before = np.zeros((5, 6))
    for round in (1, 2, 3):
        play(server, round, size=0.3)
        clients = [server.blobs.read(row["digest"]) for row in server.journal.updates(round)]
        mean = np.mean([product(raw.decode(content, raw.read_spec(content))) for content in clients], axis=0)
        server.aggregate(round, CLIENTS)
        assert np.abs(grown(server, round) - before - mean).max() < 1e-6
        before = grown(server, round) - product(adapter_of(server, round))
    trains = task(server, 3, "train-{}-client_1-0").merged
    assert trains is not None and trains.digest == server.journal.links(2)[-1], "from version 2"
    assert task(server, 0).merged is None


def test_the_newest_link_names_all_before_it(ends: Ends) -> None:
    links = ends.server.journal.links(3)
    assert len(set(links)) == 3 and task(ends.server, 3).merged == BlobRef(
        links[2], ends.server.blobs.path(links[2]).stat().st_size
    )
    followed = [BaseLink.decoded(ends.server.blobs.read(link)).before for link in links]
    assert [before and before.digest for before in followed] == [None, *links[:2]]


def test_who_holds_some_asks_for_the_others(ends: Ends) -> None:
    links = ends.server.journal.links(3)
    nbytes, asked = ends.fetch(3)
    assert asked == [links[2], links[1], ends.server.journal.digest(3)]
    sizes = [ends.server.blobs.path(digest).stat().st_size for digest in asked]
    assert sum(sizes) < nbytes < sum(sizes) + 600, "what came of links counts, too"
    assert ends.fetch(3) == (0, [])
    paths = Chain().up_to(str(ends.bench.transfers.path(links[2])))
    assert [Path(path).name for path in paths] == links, "oldest first"
    assert [Path(path).read_bytes() for path in paths] == [ends.server.blobs.read(link) for link in links]
    assert Chain().up_to(None) == []


def test_who_joins_late_gets_all(ends: Ends) -> None:
    links = ends.server.journal.links(3)
    for path in (ends.bench.folder / "blobs").iterdir():
        path.unlink()
    ends.bench.restart()
    assert ends.fetch(3)[1] == [*links[::-1], ends.server.journal.digest(3)]


@pytest.mark.parametrize("how", ["gone", "rotted"])
def test_a_link_that_the_worker_has_lost_comes_again(ends: Ends, how: str) -> None:
    ends.fetch(3)
    links = ends.server.journal.links(3)
    path = ends.bench.transfers.path(links[1])
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"rotten")
    ends.bench.restart()
    assert ends.fetch(3)[1] == [links[1]], "the adapter is here"


def test_a_link_is_damaged_on_its_way(ends: Ends) -> None:
    given = task(ends.server, 3)
    assert given.merged is not None
    ends.give(given)
    content = ends.server.blobs.read(given.merged.digest)
    for message, _ in ends.bench.asked():
        piece = content[message.offset : message.offset + message.nbytes]
        ends.bench.answer(Chunk(given.merged.digest, message.offset, len(content)), b"!" * len(piece))
    assert ends.served()[1][:2] == [given.merged.digest, ends.server.journal.links(3)[1]]
    assert ends.bench.transfers.path(given.merged.digest).read_bytes() == ends.server.blobs.read(given.merged.digest)


def test_a_link_that_the_coordinator_has_lost_fails_the_task(ends: Ends) -> None:
    ends.server.blobs.path(ends.server.journal.links(3)[1]).unlink()
    ends.give(task(ends.server, 3))
    while not (missing := ends.bench.transfers.missing()):
        for incoming in ends.bench.listener.receive(0.0).messages:
            with contextlib.suppress(RemoteProtocolError):
                ends.intake.take(incoming)
        for answer in ends.bench.worker.receive(0.0).messages:
            ends.bench.transfers.take(answer.frames)
    assert missing and ends.bench.transfers.fetched() is None


def test_the_newest_link_is_gone_at_the_coordinator(ends: Ends) -> None:
    ends.server.blobs.path(ends.server.journal.links(3)[2]).unlink()
    with pytest.raises(StorageError, match=r"is gone, a part of the model of round 3: put it back, or begin anew"):
        task(ends.server, 3)


def test_a_link_that_is_none_fails_the_task(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """It has the digest that the task says, so to fetch it again is of no use."""
    content = raw.encode({"x": np.zeros(1, np.float64)})
    blob = BlobRef(ends.server.blobs.add(content), len(content))
    ends.give(replace(task(ends.server, 3), merged=blob))
    for message, _ in ends.bench.asked():
        ends.bench.answer(Chunk(blob.digest, message.offset, len(content)), content)
    assert ends.bench.transfers.missing() and "cannot be read: SCHEMA" in caplog.text


def own_rule(merged: dict[str, np.ndarray]) -> Any:
    """A user's, that merges this."""
    return fedavg()._replace(merged=lambda state: merged, name="own")


GOOD = {A: np.zeros((2, 6), np.float32), B: np.zeros((5, 2), np.float32)}


@pytest.mark.parametrize(
    "merged",
    [
        {name: value.astype(np.float64) for name, value in GOOD.items()},
        {A: GOOD[A]},
        {**GOOD, B: np.zeros((5, 3), np.float32)},
        {A: np.zeros((2, 7), np.float32), B: GOOD[B]},
        {A: np.zeros((0, 6), np.float32), B: np.zeros((5, 0), np.float32)},
        {name.replace("attn", "mlp"): value for name, value in GOOD.items()},
    ],
    ids=["float64", "no B", "two ranks", "another width", "rank 0", "no such module"],
)
def test_what_no_worker_could_go_on_with_is_not_committed(tmp_path: Path, merged: dict[str, np.ndarray]) -> None:
    server = started(tmp_path, aggregator=own_rule(merged))
    play(server, 1)
    with pytest.raises(RunError, match="the aggregation rule own failed: it merges"):
        server.aggregate(1, CLIENTS)
    assert server.journal.last_committed() == 0
    good = make_server(tmp_path, aggregator=own_rule(GOOD))
    assert good.progress().version == 1 and len(good.journal.links(1)) == 1


@pytest.mark.parametrize("federated", [{"mode": "async"}, {"download_codec": "int4"}])
def test_an_own_rule_that_merges_where_the_base_cannot_grow(federated: dict[str, Any]) -> None:
    config = ExperimentConfig.from_dict({"federated": federated})
    with pytest.raises(ConfigError, match="own merges into the base, which goes neither with"):
        require_base_can_grow(config, own_rule(GOOD))
    require_base_can_grow(ExperimentConfig(), own_rule(GOOD))


def test_a_resumed_server_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, broken = started(tmp_path / "a", **OPTIONS), started(tmp_path / "b", **OPTIONS)
    for round in (1, 2, 3):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        whole.tidy([])
        play(broken, round)
        broken.journal.freeze_round(round, list(CLIENTS))
        broken = make_server(tmp_path / "b", **OPTIONS)
        assert broken.progress().version == round
        broken.tidy([])
    assert broken.journal.links(3) == whole.journal.links(3)
    assert broken.journal.digest(3) == whole.journal.digest(3)
    assert all(whole.blobs.has(link) for link in whole.journal.links(3)), "needed as long as the run"


class Killed(BaseException):
    """At a durable step."""


def test_a_server_that_is_killed_at_any_durable_step_of_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No version without its link, no link counted twice."""
    whole = started(tmp_path / "whole", **OPTIONS)
    for round in (1, 2):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
    steps = 0
    for at in range(1, 100):
        server = started(tmp_path / str(at), **OPTIONS)
        play(server, 1)
        server.aggregate(1, CLIENTS)
        play(server, 2)
        left = at

        def reached() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        monkeypatch.setattr("fedmq.crash_points._pass", reached)
        killed = False
        try:
            server.aggregate(2, CLIENTS)
        except Killed:
            killed = True
        monkeypatch.undo()
        if not killed:
            break
        steps += 1
        server = make_server(tmp_path / str(at), **OPTIONS)
        if server.progress().version == 1:  # its set was not fixed: the updates are here, and count
            server.aggregate(2, CLIENTS)
        assert server.journal.links(2) == whole.journal.links(2)
        assert server.journal.digest(2) == whole.journal.digest(2)
        assert all(server.blobs.has(link) for link in server.journal.links(2))
    assert steps > 10, "it was killed"


def test_checkpoints_hold_the_links_that_their_adapters_belong_to(tmp_path: Path) -> None:
    server = started(tmp_path, **OPTIONS | {"num_rounds": 2})
    for round in (1, 2):
        play(server, round)
        server.aggregate(round, CLIENTS)
        server.tidy([])
    server.write_derived()
    links = server.journal.links(2)
    for name, held in (("global_model/round_final", links), ("client_1/round_2", links[:1])):
        config = json.loads((tmp_path / name / CONFIG).read_text())
        assert config == {"peft_type": "LORA", MERGED: held}
        assert (tmp_path / name / WEIGHTS).is_file()
    assert MERGED not in json.loads((tmp_path / "client_1" / "round_1" / CONFIG).read_text())


def test_a_round_in_which_nothing_is_lost_adds_no_link(tmp_path: Path) -> None:
    server = started(tmp_path, **OPTIONS)
    server.open_round(1, [CLIENTS])
    local = {name: value + np.float32(0.5) for name, value in adapter_of(server, 0).items()}
    for client in CLIENTS:
        give(server, f"train-1-{client}-0", local)
    server.aggregate(1, CLIENTS)
    assert server.journal.links(1) == [] and task(server, 1).merged is None


@pytest.mark.parametrize(
    "link",
    [
        {"x": np.zeros(1, np.float16)},
        {f"after:{'0' * 64}:1": np.zeros(0, np.float32), f"after:{'1' * 64}:1": np.zeros(0, np.float32)},
    ],
    ids=["another dtype", "two before it"],
)
def test_what_is_no_link(link: dict[str, np.ndarray]) -> None:
    with pytest.raises(RemoteProtocolError, match="SCHEMA"):
        BaseLink.decoded(raw.encode(link))


def test_nothing_is_left_at_the_worker_when_the_run_is_over(ends: Ends) -> None:
    ends.fetch(3)
    ends.bench.transfers.forget_all()
    assert list((ends.bench.folder / "blobs").iterdir()) == []
