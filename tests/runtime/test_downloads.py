"""Versions as deltas, from the server's rounds to the worker's files: the coordinator's end, and both together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from both_ends import CLIENTS, Ends, adapter_of, play, task
from serving import make_server, started

from fedmq import build
from fedmq.algorithms import aggregate
from fedmq.codec import raw
from fedmq.codec.download import DownloadCodec, download_codec
from fedmq.codec.update import BY_NAME
from fedmq.errors import RunError
from fedmq.protocol import messages as m
from fedmq.protocol.fields import MAX_BASES
from fedmq.recipe import CodecSpec
from fedmq.runtime.downloads import publish

LOSSY = [name for name in BY_NAME if name != "fp32"]


def codec_of(name: str) -> DownloadCodec:
    return download_codec(CodecSpec(name, None, None, None))


def options(name: str) -> dict[str, Any]:
    """Of a server that remembers two things, the optimiser's and the codec's."""
    return {"download": codec_of(name), "server_optimizer": build.server_optimizer("nesterov"), "num_rounds": 9}


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Both hold version 1, and version 2 is there."""
    ends = Ends(tmp_path, "int4", **options("int4"))
    ends.round(1)
    ends.fetch(1)
    ends.round(2)
    yield ends
    ends.bench.close()


def delta(ends: Ends, version: int = 2) -> m.DeltaRef:
    found = task(ends.server, version).delta
    assert found is not None
    return found


# --- the coordinator -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSY)
def test_a_resumed_server_goes_on_to_the_bit(tmp_path: Path, name: str) -> None:
    """What the adapter is short of is as durable as the optimiser's state; a frozen round is done again alike."""
    whole, broken = started(tmp_path / "a", **options(name)), started(tmp_path / "b", **options(name))
    deltas: list[Any] = []
    for round in (1, 2, 3):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        deltas.append(whole.journal.rounds(round)[0]["delta"])
        play(broken, round)
        broken.journal.freeze_round(round, list(CLIENTS))
        broken = make_server(tmp_path / "b", **options(name))
        assert broken.progress().version == round
        assert broken.journal.rounds(round)[0]["delta"] == deltas[-1]
        assert broken.journal.digest(round) == whole.journal.digest(round)
        assert broken.journal.optimizer(round) == whole.journal.optimizer(round)
    assert None not in deltas and len(set(deltas)) == 3
    forgetful = started(tmp_path / "c", **options(name))
    for round in (1, 2):
        play(forgetful, round)
        forgetful.aggregate(round, CLIENTS)
        forgetful._memory = (round, forgetful._memory[1]._replace(residual={}))
    assert forgetful.journal.digest(1) == whole.journal.digest(1)
    assert forgetful.journal.digest(2) != whole.journal.digest(2), "it does matter"


def test_fp32_changes_nothing(tmp_path: Path) -> None:
    server = started(tmp_path, num_rounds=9)
    for round in (1, 2):
        play(server, round)
        server.aggregate(round, CLIENTS)
        server.tidy([])
        assert task(server, round).delta is None
    assert server.journal.optimizer(2) is None, "nothing is remembered"
    assert {path.name for path in server.blobs.folder.iterdir() if not path.suffix} == {server.journal.digest(2)}


def test_what_tasks_say(tmp_path: Path) -> None:
    server = started(tmp_path, **options("int4"))
    assert task(server, 0).delta is None, "the first adapter is whole"
    for round in (1, 2):
        play(server, round)
        server.aggregate(round, CLIENTS)
    told = task(server, 2).delta
    assert told is not None and told.bases == (server.journal.digest(1),)
    assert server.blobs.path(told.blob.digest).stat().st_size == told.blob.nbytes
    assert task(server, 3, "train-{}-client_1-0").delta == told, "trainings of round 3 start from version 2"
    assert task(server, 2, "generate-{}-prompts-0").delta == told
    assert task(server, 0, "init-{}-adapter-0").delta is None
    assert task(server, 1).delta != told
    server.blobs.remove(told.blob.digest)
    assert task(server, 2).delta is None and task(server, 2).adapter is not None


def test_a_delta_is_deleted_with_its_adapter(tmp_path: Path) -> None:
    server = started(tmp_path, **options("int4"))

    def held(*versions: int) -> set[str]:
        rows = [server.journal.rounds(version)[0] for version in versions]
        names = {row[name] for row in rows for name in ("digest", "delta")} | {server.journal.optimizer(versions[-1])}
        return {name for name in names if name}

    for round, pinned in ((1, ()), (2, (1,)), (3, (0, 1))):
        play(server, round)
        server.aggregate(round, CLIENTS)
        server.tidy(pinned)
        kept = [version for version in pinned if version]
        assert {path.name for path in server.blobs.folder.iterdir() if not path.suffix} == held(*kept, round)


def test_a_codec_that_leads_beyond_float32_fails_the_round() -> None:
    before, after, short = ({"w": np.full(64, value, np.float32)} for value in (3e38, 3.1e38, 1e38))
    with pytest.raises(RunError, match=r"round 7: the download codec's NONFINITE: .* lower the server's learning rate"):
        publish(codec_of("sign"), after, before, short, 7)


# --- both ends -------------------------------------------------------------------------------------


def test_under_fp32_who_holds_the_version_before_downloads_what_moved(tmp_path: Path) -> None:
    ends = Ends(tmp_path, num_rounds=9)
    whole, _ = ends.fetch(0)
    moved = [None, "lora_B", "lora_A", "lora_B", "lora_B", "lora_B"]
    for round in (1, 2, 3, 4, 5):
        play(ends.server, round, factor=moved[round] or "")
        ends.server.aggregate(round, CLIENTS)
        ends.server.tidy([])
        part = {name: value for name, value in adapter_of(ends.server, round).items() if (moved[round] or "") in name}
        assert delta(ends, round).blob.nbytes == len(raw.encode(part))
        if round in (2, 4):  # the worker has no task in these
            continue
        nbytes, asked = ends.fetch(round)
        joined = round == 3
        assert asked == [ends.server.journal.digest(round) if joined else delta(ends, round).blob.digest]
        assert nbytes > 0.95 * whole if joined else nbytes < 0.8 * whole
    older = [ends.server.journal.digest(version) for version in (4, 3, 2)]
    assert delta(ends, 5).bases == tuple(older), "A moved in round 2, and in no round since"
    ends.again()
    assert delta(ends, 5).bases == tuple(older[:1]), "another process knows of the version before"
    path = ends.server.blobs.path(delta(ends, 5).blob.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    ends.again()
    assert delta(ends, 5).bases == tuple(older[:1]), "and that a delta is damaged, who asks for it finds out"
    ends.bench.close()


def test_a_task_names_the_newest_of_many_bases(tmp_path: Path) -> None:
    server = started(tmp_path, num_rounds=30)
    for round in range(1, MAX_BASES + 3):
        play(server, round, factor="lora_B")
        server.aggregate(round, CLIENTS)
        told = task(server, round).delta
        older = range(round - 1, max(0, round - MAX_BASES) - 1, -1)
        assert told is not None and told.bases == tuple(server.journal.digest(version) for version in older)


def test_no_delta_leads_to_a_file_that_tells_more_than_the_adapter(tmp_path: Path) -> None:
    rule = aggregate.fedavg()._replace(told=True, left=lambda state: state.total)
    server = started(tmp_path, aggregator=rule, num_rounds=9)
    play(server, 1, factor="lora_B")
    server.aggregate(1, CLIENTS)
    assert task(server, 1).delta is not None
    training = task(server, 2, "train-{}-client_1-0")
    assert training.adapter != task(server, 1).adapter and training.delta is None


@pytest.mark.parametrize("name", LOSSY)
def test_a_worker_holds_the_bits_of_the_coordinator(tmp_path: Path, name: str) -> None:
    ends = Ends(tmp_path, name, **options(name))
    assert ends.fetch(0)[1] == [ends.server.journal.digest(0)]
    for round in range(1, 7):
        ends.round(round)
        nbytes, asked = ends.fetch(round)
        assert asked == [delta(ends, round).blob.digest], "and nothing else"
        assert delta(ends, round).blob.nbytes < nbytes < delta(ends, round).blob.nbytes + 200, "and a header"
        assert ends.fetch(round) == (0, []), "it holds that now"
    kept = {path.name for path in (ends.bench.folder / "blobs").iterdir()}
    assert kept == {ends.server.journal.digest(5), ends.server.journal.digest(6)}, "no delta stays"
    ends.bench.close()


def whole(ends: Ends, given: m.Task | None = None, asks: bool = False) -> None:
    """Version 2 comes whole, after its delta if that is asked for; what was of no use counts, too."""
    given = given or task(ends.server, 2)
    assert given.delta is not None and given.adapter is not None
    ends.give(given)
    nbytes, asked = ends.served()
    assert asked == [*([given.delta.blob.digest] if asks else []), given.adapter.digest]
    assert given.adapter.nbytes < nbytes < given.adapter.nbytes + 700
    assert {path.suffix for path in (ends.bench.folder / "blobs").iterdir()} == {""}, "nothing is left of it"


def test_who_skipped_a_version(ends: Ends) -> None:
    ends.round(3)
    assert ends.fetch(3)[1] == [ends.server.journal.digest(3)]


def test_who_has_another_base(ends: Ends) -> None:
    ends.bench.transfers._blobs.remove(ends.server.journal.digest(1))
    whole(ends)


def test_a_base_that_rotted(ends: Ends) -> None:
    ends.bench.transfers.path(ends.server.journal.digest(1)).write_bytes(b"rotten")
    ends.bench.restart()
    whole(ends)


def test_a_base_that_rots_under_our_hands(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """It was right when this process read it first."""
    path = ends.bench.transfers.path(ends.server.journal.digest(1))
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    whole(ends, asks=True)
    assert "the delta of an adapter is of no use (BLOB: " in caplog.text and "the whole is downloaded" in caplog.text


@pytest.mark.parametrize("how", ["damaged", "rotted", "gone"])
def test_a_delta_that_the_coordinator_has_lost(ends: Ends, how: str, caplog: pytest.LogCaptureFixture) -> None:
    given, path = task(ends.server, 2), ends.server.blobs.path(delta(ends).blob.digest)
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    if how == "rotted":  # which the next process finds out when it reads it
        ends.again()
    whole(ends, given, asks=True)
    why = "BLOB: the bytes do not have the digest" if how == "damaged" else "the coordinator does not have it"
    assert f"the delta of an adapter is of no use ({why}" in caplog.text


def test_a_delta_that_leads_elsewhere(ends: Ends) -> None:
    """Whatever is wrong with it, the adapter's own digest decides."""
    given = task(ends.server, 2)
    content = bytearray(ends.server.blobs.read(delta(ends).blob.digest))
    held = ends.bench.transfers.path(delta(ends).bases[0]).read_bytes()
    before = raw.decode(held, raw.read_spec(held))
    other = codec_of("sign").publish(adapter_of(ends.server, 2), before, {})
    elsewhere = codec_of("int4").publish(before, adapter_of(ends.server, 2), {})
    for wrong in (bytes(content[:-1]), content + b"!", b"junk", other.delta, elsewhere.delta):
        assert wrong is not None
        blob = m.BlobRef(ends.server.blobs.add(bytes(wrong)), len(wrong))
        whole(ends, replace(given, delta=m.DeltaRef((ends.server.journal.digest(1),), blob)), asks=True)
        ends.bench.transfers._blobs.remove(given.adapter.digest)  # type: ignore[union-attr]


def test_a_delta_that_is_not_smaller_is_not_asked_for(ends: Ends) -> None:
    given = task(ends.server, 2)
    blob = replace(delta(ends).blob, nbytes=given.adapter.nbytes)  # type: ignore[union-attr]
    whole(ends, replace(given, delta=replace(delta(ends), blob=blob)))


@pytest.mark.parametrize("arrived", [1, 40, -1])
def test_a_delta_goes_on_after_a_restart_of_the_worker(ends: Ends, arrived: int) -> None:
    """Also one that was complete but for its name."""
    ends.give(task(ends.server, 2))
    content = ends.server.blobs.read(delta(ends).blob.digest)
    some = content if arrived < 0 else content[:arrived]
    ends.bench.transfers._download.part.append(0, some)  # type: ignore[union-attr]
    ends.bench.restart()
    ends.bench.asked()
    nbytes, asked = ends.fetch(2)
    assert asked == ([] if arrived < 0 else [delta(ends).blob.digest])
    assert nbytes < len(content) - len(some) + 200


@pytest.mark.parametrize("step", ["named", "rebuilt in part", "rebuilt"])
def test_a_worker_that_is_killed_while_it_rebuilds(ends: Ends, step: str) -> None:
    blobs = ends.bench.transfers._blobs
    content = ends.server.blobs.read(delta(ends).blob.digest)
    made = ends.server.blobs.read(ends.server.journal.digest(2))
    part = blobs.partial(ends.server.journal.digest(2), len(made), "rebuilt")
    part.append(0, {"named": b"", "rebuilt in part": made[:100], "rebuilt": made}[step])
    part.close()
    blobs.path(delta(ends).blob.digest).write_bytes(content)
    ends.bench.restart()
    ends.fetch(2)
    assert not list((ends.bench.folder / "blobs").glob("*.part"))


def test_who_was_restarted_keeps_no_more_than_two_adapters(ends: Ends) -> None:
    for version in (2, 3, 4):
        ends.bench.restart()
        ends.fetch(version)
        ends.round(version + 1)
    ends.fetch(5)
    held = {ends.server.journal.digest(version) for version in (4, 5)}
    assert {path.name for path in (ends.bench.folder / "blobs").iterdir()} >= held
    assert ends.bench.transfers._blobs.checked == held
