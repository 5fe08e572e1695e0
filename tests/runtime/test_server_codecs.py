"""A server whose updates come as deltas in a codec: what is folded, screened, kept, and told to the next training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from serving import adapter, bring, started, uploads

from fedmq import build, tensors
from fedmq.algorithms.aggregate import Aggregator, Update
from fedmq.codec import raw
from fedmq.codec.part import of_part, start
from fedmq.codec.update import BY_NAME, UpdateCodec, update_codec
from fedmq.config import get_default_config
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.messages import Folded
from fedmq.recipe import CodecSpec, Part
from fedmq.runtime.screening import UpdateLimits
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.tasks import make_tasks
from fedmq.runtime.uploads import Uploads

CLIENTS = ("client_1", "client_2")


def codec_of(name: str) -> UpdateCodec:
    return update_codec(CodecSpec(name, None, None, None))


def server_with(folder: Path, name: str, **options: Any) -> FederatedServer:
    return started(folder, uploads=uploads(name), **options)


def base_of(server: FederatedServer, version: int) -> dict[str, np.ndarray]:
    content = server.blobs.read(server.journal.digest(version))
    return dict(codec_of("fp32").decode(content, adapter(0)))


def update(base: tensors.NamedTensors, name: str, seed: int, size: float = 1e-2) -> bytes:
    """A client's first update."""
    draw = np.random.default_rng(seed)
    local = {n: (v + draw.normal(0, size, v.shape)).astype(np.float32) for n, v in base.items()}
    codec = codec_of(name)
    return codec.encode(local, base, codec.init(base))[0]


def play(server: FederatedServer, name: str, round: int, clients: tuple[str, ...] = CLIENTS) -> list[bytes]:
    """A round in which all of these clients count."""
    base = base_of(server, round - 1)
    contents = [update(base, name, 10 * round + k) for k in range(len(clients))]
    server.open_round(round, [clients])
    for client, content in zip(clients, contents, strict=True):
        bring(server, f"train-{round}-{client}-0", content)
    server.aggregate(round, clients)
    return contents


def kept(server: FederatedServer, client: str, round: int) -> dict[str, np.ndarray]:
    return load_file(server.run_dir / client / f"round_{round}" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_folded_is_what_is_kept(tmp_path: Path, name: str) -> None:
    """Anybody can do the aggregation again from the folders of the clients."""
    server = server_with(tmp_path, name)
    before = base_of(server, 0)
    contents = play(server, name, 1)
    server.tidy([])
    after = base_of(server, 1)
    for client, content in zip(CLIENTS, contents, strict=True):
        expected = codec_of(name).decode(content, before)
        assert tensors.digest(kept(server, client, 1)) == tensors.digest(expected)
    for tensor, value in before.items():
        mean = sum(kept(server, client, 1)[tensor].astype(np.float64) - value for client in CLIENTS) / 2
        assert np.array_equal(after[tensor], (value + mean).astype(np.float32))
    held = {path.name for path in server.blobs.folder.iterdir() if path.suffix == ""}
    assert held == {server.journal.digest(1)}, "no update is needed any more"


@pytest.mark.parametrize("name", ["fp32", "sign"])
def test_what_a_crash_left_undone_is_done_by_the_next_process(tmp_path: Path, name: str) -> None:
    server = server_with(tmp_path, name)
    contents, before = play(server, name, 1), base_of(server, 0)
    again = FederatedServer.__new__(FederatedServer)
    again.__dict__.update(server.__dict__)
    assert not (tmp_path / "client_1").exists()
    again.progress()
    expected = codec_of(name).decode(contents[0], before)
    assert tensors.digest(kept(again, "client_1", 1)) == tensors.digest(expected)
    # Killed while it tidied up: the older model is gone already, and what was made of it is there.
    again.blobs.remove(again.journal.digest(0))
    again.progress()
    again.tidy([])
    assert tensors.digest(kept(again, "client_1", 1)) == tensors.digest(expected)


def test_a_frozen_round_is_folded_from_its_files(tmp_path: Path) -> None:
    """As a process does that was not there when the updates came."""
    digests = set()
    for name in ("here", "later"):
        server = server_with(tmp_path / name, "int4")
        base = base_of(server, 0)
        server.open_round(1, [CLIENTS])
        for k, client in enumerate(CLIENTS):
            bring(server, f"train-1-{client}-0", update(base, "int4", k))
        if name == "later":
            server._decoded = {}
        server.aggregate(1, CLIENTS)
        digests.add(server.journal.digest(1))
    assert len(digests) == 1


def test_screening_is_of_what_was_decoded(tmp_path: Path) -> None:
    limits = UpdateLimits(max_norm=0.5, max_tokens_per_example=128)
    server = server_with(tmp_path, "sign", limits=limits)
    base = base_of(server, 0)
    server.open_round(1, [CLIENTS])
    bring(server, "train-1-client_1-0", update(base, "sign", 1, 0.05))
    with pytest.raises(RemoteProtocolError, match="NORM: the update's norm is"):
        bring(server, "train-1-client_2-0", update(base, "sign", 1, 0.5))
    with pytest.raises(RemoteProtocolError, match="CODEC: not an encoded delta"):
        bring(server, "train-1-client_2-0", update(base, "fp32", 1))
    with pytest.raises(RemoteProtocolError, match="SCHEMA: not a delta of this run's adapter by sign"):
        bring(server, "train-1-client_2-0", update(base, "int8", 1))
    with pytest.raises(RemoteProtocolError, match="SCHEMA"):
        bring(server, "train-1-client_2-0", update({"w": np.ones(3, np.float32)}, "sign", 1))


def test_a_lost_state_is_a_warning_and_in_the_metrics(tmp_path: Path) -> None:
    server = server_with(tmp_path, "sign")
    base = base_of(server, 0)
    server.open_round(1, [CLIENTS])
    content = update(base, "sign", 1)
    offer = bring(server, "train-1-client_1-0", content, state_lost=True)
    remark = "train-1-client_1-0: what the client remembered of its last update is not there, it began anew"
    assert server.check(offer, content).remark == remark
    bring(server, "train-1-client_2-0", update(base, "sign", 2))
    server.aggregate(1, CLIENTS)
    assert [row["state_lost"] for row in server.rounds()[0]["client_metrics"]] == [True, False]


def test_a_training_follows_the_last_update_that_counted(tmp_path: Path) -> None:
    server = server_with(tmp_path, "sign", num_rounds=9)
    spec = get_default_config().to_run_spec()

    def follows(client: str, round: int, attempt: int = 0) -> Folded | None:
        return make_tasks([f"train-{round}-{client}-{attempt}"], spec, server, "secret").tasks[0].follows

    assert follows("client_1", 1) is None
    digest = server.journal.updates
    play(server, "sign", 1)
    first = Folded(1, digest(1)[0]["digest"])
    assert follows("client_1", 2) == first == follows("client_1", 2, 3), "whatever the attempt"
    assert follows("client_3", 2) is None
    # An update that is accepted, but not folded, leaves no trace.
    server.open_round(2, [("client_1", "client_3")])
    base = base_of(server, 1)
    for client in ("client_1", "client_3"):
        bring(server, f"train-2-{client}-0", update(base, "sign", 7))
    assert follows("client_1", 2) == first
    server.aggregate(2, ["client_3"])
    assert follows("client_1", 3) == first
    assert follows("client_3", 3) == Folded(2, digest(2)[1]["digest"])
    evaluation = make_tasks(["evaluate-2-client_1-0"], spec, server, "secret").tasks[0]
    assert evaluation.follows is None


def test_states_are_deleted_when_nobody_needs_them_any_more(tmp_path: Path) -> None:
    """The last version is scored after its commit, under fedsa with what clients remember."""
    server = server_with(tmp_path, "sign", num_rounds=1)
    (tmp_path / "client_states" / "client_1").mkdir(parents=True)
    play(server, "sign", 1)
    for status in ("interrupted", "failed", "done"):
        server.journal.put(status=status)
        server.write_derived()
        assert (tmp_path / "client_states").exists() == (status != "done"), status


# --- updates of which only a part travels ----------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int4"])
def test_a_frozen_factor_is_filled_in_and_cannot_be_moved(tmp_path: Path, name: str) -> None:
    """FFA-LoRA: what is folded and kept is a whole adapter, with the global A to the bit, whatever a client sends."""
    rule, codec = build.lora_aggregator("ffa"), codec_of(name)
    server = started(tmp_path, aggregator=rule, uploads=Uploads(codec, rule.trained, {}))
    before, own = base_of(server, 0), of_part(codec, Part("B", None))
    a, b = sorted(before)
    server.open_round(1, [CLIENTS])
    for seed, client in enumerate(CLIENTS):
        local = {n: (v + seed + 1).astype(np.float32) for n, v in before.items()}
        with pytest.raises(RemoteProtocolError, match="SCHEMA"):
            bring(server, f"train-1-{client}-0", codec.encode(local, before, {})[0])
        bring(server, f"train-1-{client}-0", own.encode(local, before, {})[0])
    server._decoded = {}
    server.aggregate(1, CLIENTS)
    server.tidy([])
    after = base_of(server, 1)
    assert np.array_equal(after[a], before[a]) and np.allclose(after[b], before[b] + 1.5, atol=0.01)
    for seed, client in enumerate(CLIENTS):
        folded = kept(server, client, 1)
        assert np.array_equal(folded[a], before[a]) and np.allclose(folded[b], before[b] + seed + 1, atol=0.01)


def test_each_round_of_rolora_has_its_own_part(tmp_path: Path) -> None:
    rule = build.lora_aggregator("rolora")
    server = started(tmp_path, aggregator=rule, uploads=Uploads(codec_of("fp32"), rule.trained, {}))
    for round, moving in ((1, "lora_B"), (2, "lora_A")):
        before = base_of(server, round - 1)
        ones = {n: (v + 1).astype(np.float32) for n, v in before.items()}
        server.open_round(round, [CLIENTS])
        for client in CLIENTS:
            other = {n: v for n, v in ones.items() if moving not in n}
            with pytest.raises(RemoteProtocolError, match="SCHEMA: tensor .*lora_A.weight' (is missing|does not)"):
                bring(server, f"train-{round}-{client}-0", raw.encode(other))
            bring(server, f"train-{round}-{client}-0", raw.encode({n: v for n, v in ones.items() if moving in n}))
        server.aggregate(round, CLIENTS)
        after = base_of(server, round)
        assert {n for n in after if not np.array_equal(after[n], before[n])} == {n for n in after if moving in n}


# --- clients of different ranks --------------------------------------------------------------------


@pytest.mark.parametrize("rule", [build.lora_aggregator("flexlora"), build.lora_aggregator("hetlora")])
@pytest.mark.parametrize("name", ["fp32", "sign"])
def test_a_client_of_a_smaller_rank(tmp_path: Path, rule: Aggregator, name: str) -> None:
    """It sends its rows and columns; what is screened, folded and kept has zeros in the others."""
    codec, limits = codec_of(name), UpdateLimits(max_norm=0.5, max_tokens_per_example=128)
    server = started(tmp_path, aggregator=rule, uploads=Uploads(codec, rule.trained, {"client_1": 3}), limits=limits)
    before, part = base_of(server, 0), Part("both", 3)
    a, b = sorted(before)
    server.open_round(1, [CLIENTS])
    tasks = make_tasks([f"train-1-{c}-0" for c in CLIENTS], get_default_config().to_run_spec(), server, "s").tasks
    assert [task.work.part for task in tasks] == [part, Part("both", None)]  # type: ignore[union-attr]
    begun, own = start(part, before), of_part(codec, part)
    local = start(part, {n: (v + 0.05).astype(np.float32) for n, v in begun.items()})
    # The way from the whole adapter to the smaller one is no part of the update: it is longer than is allowed.
    assert tensors.l2_norm(tensors.subtract(begun, before)) > 0.5
    with pytest.raises(RemoteProtocolError, match="SCHEMA") as refused:
        bring(server, "train-1-client_1-0", update(before, name, 1))
    if name == "fp32":
        assert f"tensor '{a}' is float32 (4, 6), expected float32 (3, 6)" in str(refused.value)
    content = own.encode(local, before, own.init(before))[0]
    with pytest.raises(RemoteProtocolError, match="SCHEMA"):
        bring(server, "train-1-client_2-0", content)
    bring(server, "train-1-client_1-0", content)
    bring(server, "train-1-client_2-0", update(before, name, 2))
    server.aggregate(1, CLIENTS)
    server.tidy([])
    folded = kept(server, "client_1", 1)
    assert tensors.spec(folded) == tensors.spec(before)
    assert not folded[a][3:].any() and not folded[b][:, 3:].any()
    np.testing.assert_allclose(folded[a][:3], before[a][:3] + 0.05, atol=1e-5)
    clients = [folded, kept(server, "client_2", 1)]
    state = rule.init(before)
    for client, found in zip(CLIENTS, clients, strict=True):
        state = rule.fold(state, Update(client, 0, 10, 100, tensors.subtract(found, before)), 10)
    delta = rule.finish(state)
    for tensor, value in base_of(server, 1).items():
        assert np.array_equal(value, (before[tensor] + delta[tensor]).astype(np.float32))
    assert server.journal.bias(1) is not None
