"""FederatedServer: what is committed is FedAvg of what is on disk, whatever was interrupted when."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from serving import CONFIG, HOSTED, adapter, give, make_server, offer, started

from fedmq import tensors
from fedmq.algorithms import server_opt, weighting
from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError, RunError, StorageError
from fedmq.protocol import messages as m
from fedmq.protocol.grouping import Size
from fedmq.protocol.phases import Progress
from fedmq.runtime.answers import record_evaluation, record_texts
from fedmq.storage.hosted import Hosted

CLIENTS = ("client_1", "client_10", "client_2")
SIZES = {"client_1": 7, "client_10": 100, "client_2": 13}
KNOWN: Any = {"hosts": HOSTED, "sizes": dict.fromkeys(HOSTED, Size(1000, 25_000))}


def load(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")


def play(server: Any, round: int, clients: tuple[str, ...] = CLIENTS) -> None:
    """One round without its aggregation, updates arriving in the given order."""
    server.open_round(round, [[client] for client in sorted(clients)])
    for client in clients:
        give(server, f"train-{round}-{client}-0", adapter(100 * round + len(client)), num_examples=SIZES[client])


@pytest.mark.parametrize("rule", [weighting.by_examples, weighting.by_tokens, weighting.uniform])
def test_a_committed_round_is_fedavg_of_the_checkpoints_on_disk(tmp_path: Path, rule: Any) -> None:
    server = started(tmp_path, weighting=rule, save_every=1)
    for round in (1, 2):
        play(server, round)
        server.aggregate(round, CLIENTS)
        server.tidy([])
    before, after = (load(tmp_path / "global_model" / f"round_{k}") for k in (1, 2))
    weights = [rule(SIZES[client], 100) for client in sorted(CLIENTS)]
    for name, value in before.items():
        deltas = [load(tmp_path / c / "round_2")[name].astype(np.float64) - value for c in sorted(CLIENTS)]
        mean = sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)
        assert (value + mean).astype(np.float32).tobytes() == after[name].tobytes()


def test_the_order_of_arrival_does_not_change_a_bit(tmp_path: Path) -> None:
    """Updates whose sum depends on the order: in float64, (1e17 + 1) - 1e17 is 0, and (1e17 - 1e17) + 1 is 1."""
    values = {"client_1": 1e17, "client_10": 1.0, "client_2": -1e17}
    digests = set()
    for k, order in enumerate(itertools.permutations(values)):
        server = started(tmp_path / str(k), weighting=weighting.uniform)
        server.open_round(1, [[client] for client in sorted(values)])
        for client in order:
            local = {name: np.full_like(array, values[client]) for name, array in adapter(0).items()}
            give(server, f"train-1-{client}-0", local)
        server.aggregate(1, order)
        digests.add(server.journal.digest(1))
    assert len(digests) == 1


def test_one_client_is_taken_as_it_is(tmp_path: Path) -> None:
    server = started(tmp_path)
    server.journal.open_round(1, [["client_1"]])
    update = give(server, "train-1-client_1-0", adapter(5), num_examples=3)
    server.aggregate(1, ["client_1"])
    assert server.journal.digest(1) == update.blob.digest


def test_only_the_given_clients_are_folded(tmp_path: Path) -> None:
    server, alone = started(tmp_path / "a"), started(tmp_path / "b")
    play(server, 1)
    server.aggregate(1, ["client_2"])
    play(alone, 1, ("client_2",))
    alone.aggregate(1, ["client_2"])
    assert server.journal.digest(1) == alone.journal.digest(1)
    assert server.journal.rounds()[-1]["frozen"] == ["client_2"]


def test_selection_is_drawn_from_the_seed_and_kept(tmp_path: Path) -> None:
    server, other = started(tmp_path / "a"), started(tmp_path / "b", seed=43)
    clients = [f"client_{k}" for k in range(20)]
    chosen = server.select(1, clients, 5)
    server.open_round(1, [chosen[:2], chosen[2:]])
    row = server.journal.rounds()[-1]
    assert row["selected"] == list(chosen) == sorted(chosen)
    assert row["groups"] == [list(chosen[:2]), list(chosen[2:])]
    assert chosen == started(tmp_path / "c").select(1, clients[::-1], 5)
    assert chosen != other.select(1, clients, 5)
    assert chosen != server.select(2, clients, 5)


# --- what is kept ----------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_which_checkpoints_are_kept(tmp_path: Path) -> None:
    server = started(tmp_path, num_rounds=5, save_every=2)
    for round in range(1, 6):
        play(server, round, ("client_1",))
        server.aggregate(round, ["client_1"])
        server.tidy([])
    assert names(tmp_path / "global_model") == ["round_0", "round_2", "round_4", "round_5", "round_final"]
    assert names(tmp_path / "client_1") == [f"round_{k}" for k in range(1, 6)]
    assert (tmp_path / "global_model" / "round_final" / "adapter_config.json").read_text() == CONFIG
    final = tmp_path / "global_model" / "round_final" / "adapter_model.safetensors"
    assert final.samefile(tmp_path / "global_model" / "round_5" / "adapter_model.safetensors")
    assert server.adapter(5) == m.BlobRef(server.journal.digest(5), final.stat().st_size)


def test_client_adapters_are_kept_on_request_only(tmp_path: Path) -> None:
    server = started(tmp_path, save_client_adapters=False)
    play(server, 1)
    server.aggregate(1, CLIENTS)
    server.tidy([])
    assert not list(tmp_path.glob("client_*"))


def test_tidying_keeps_what_is_still_needed(tmp_path: Path) -> None:
    server = started(tmp_path)
    for round in (1, 2):
        play(server, round, ("client_1",))
        server.aggregate(round, ["client_1"])
    server.journal.open_round(3, [["client_1"], ["client_2"]])
    coming = give(server, "train-3-client_2-0", adapter(9))
    part = server.blobs.partial("ab" * 32, 100)
    part.append(0, b"x" * 10)
    part.close()
    server.tidy([0])
    kept = {server.journal.digest(0), server.journal.digest(2), coming.blob.digest}
    assert set(names(tmp_path / "blobs")) == kept | {"adapter_config.json", part.path.name}
    server.tidy([])
    assert server.journal.digest(0) not in names(tmp_path / "blobs")


def test_evaluations_and_texts_are_kept_by_version(tmp_path: Path) -> None:
    server = started(tmp_path)
    record_evaluation(server.journal, m.Evaluated("evaluate-0-test-0", "cd" * 16, 40.0, 10, 2, 0.5), "w0")
    record_texts(server.journal, m.Generated("generate-0-prompts-0", "cd" * 16, ("a x", "b y")), ["a", "b"])
    assert server.scores()[0]["eval_loss"] == 4.0
    assert [row["text"] for row in server.journal.generations()] == ["a x", "b y"]
    with pytest.raises(RemoteProtocolError, match="1 texts for 2 prompts"):
        record_texts(server.journal, m.Generated("generate-0-prompts-0", "cd" * 16, ("a x",)), ["a", "b"])
    with pytest.raises(RemoteProtocolError, match="EMPTY"):
        record_evaluation(server.journal, m.Evaluated("evaluate-0-test-0", "cd" * 16, 0.0, 0, 0, 0.5), "w0")


# --- going on after a crash ------------------------------------------------------------------------


def test_progress_of_a_new_run(tmp_path: Path) -> None:
    assert make_server(tmp_path).progress() == Progress()


def test_progress_with_an_open_round(tmp_path: Path) -> None:
    server = started(tmp_path)
    server.journal.open_round(1, [["client_1", "client_3"], ["client_2"]])
    update = give(server, "train-1-client_2-0", adapter(1))
    assert make_server(tmp_path).progress() == Progress(
        0,
        (("client_1", "client_3"), ("client_2",)),
        (("client_2", update.blob.digest),),
        (0,),
        **KNOWN,
        ungenerated=(0,),
    )


def test_progress_knows_who_was_given_up(tmp_path: Path) -> None:
    server = started(tmp_path)
    server.journal.put(**{Hosted.key("client_7"): Hosted(1000, 25_000, ("w1",), gone=True).encoded()})
    assert make_server(tmp_path).progress() == Progress(
        0, unevaluated=(0,), **KNOWN, gone=("client_7",), ungenerated=(0,)
    )


def test_a_round_that_was_frozen_is_folded_on_resume(tmp_path: Path) -> None:
    server, whole = started(tmp_path / "a"), started(tmp_path / "b")
    for each in (server, whole):
        play(each, 1)
    server.journal.freeze_round(1, ["client_1", "client_2"])
    whole.aggregate(1, ["client_1", "client_2"])
    resumed = make_server(tmp_path / "a")
    assert resumed.progress() == Progress(version=1, unevaluated=(0, 1), **KNOWN, ungenerated=(0, 1))
    assert resumed.journal.digest(1) == whole.journal.digest(1)
    assert resumed.progress().version == 1, "folded once"


def test_client_checkpoints_that_a_crash_left_out_are_written_on_resume(tmp_path: Path) -> None:
    server = started(tmp_path)
    play(server, 1)
    server.aggregate(1, CLIENTS)
    assert not list(tmp_path.glob("client_*"))
    make_server(tmp_path).progress()
    assert all(load(tmp_path / client / "round_1") for client in CLIENTS)


def test_what_is_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    server = started(tmp_path)
    record_evaluation(server.journal, m.Evaluated("evaluate-0-test-0", "cd" * 16, 40.0, 10, 2, 0.5), "w0")
    play(server, 1)
    server.aggregate(1, CLIENTS)
    unscored = Progress(version=1, unevaluated=(1,), **KNOWN, ungenerated=(0, 1))
    assert make_server(tmp_path).progress() == unscored
    record_texts(server.journal, m.Generated("generate-0-prompts-0", "cd" * 16, ("x",)), ["a"])
    assert make_server(tmp_path).progress() == unscored._replace(ungenerated=(1,))


def test_rounds_go_on_after_a_resume_as_without(tmp_path: Path) -> None:
    whole, broken = started(tmp_path / "a"), started(tmp_path / "b")
    for round in (1, 2, 3):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        play(broken, round)
        broken = make_server(tmp_path / "b")
        broken.progress()
        broken.aggregate(round, CLIENTS)
        broken = make_server(tmp_path / "b")
    assert broken.journal.digest(3) == whole.journal.digest(3)


@pytest.mark.parametrize("rule", [server_opt.nesterov(), server_opt.adam(), server_opt.yogi(convention="flower")])
def test_what_the_server_optimiser_remembers_survives(tmp_path: Path, rule: server_opt.ServerOptimizer) -> None:
    """Killed after each step of three rounds, once with a set that is frozen and not yet folded."""
    whole, broken = (started(tmp_path / name, server_optimizer=rule) for name in "ab")
    for round in (1, 2, 3):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        play(broken, round)
        broken.journal.freeze_round(round, sorted(CLIENTS))
        broken = make_server(tmp_path / "b", server_optimizer=rule)
        assert broken.progress().version == round
        broken.tidy([])
        broken = make_server(tmp_path / "b", server_optimizer=rule)
    assert broken.journal.digest(3) == whole.journal.digest(3)
    plain = started(tmp_path / "c")
    for round in (1, 2, 3):
        play(plain, round)
        plain.aggregate(round, CLIENTS)
    assert plain.journal.digest(3) != whole.journal.digest(3)


def test_a_server_step_that_leads_to_infinity_fails_the_run_and_commits_nothing(tmp_path: Path) -> None:
    server = started(tmp_path, server_optimizer=server_opt.none(lr=1e40))
    play(server, 1)
    with pytest.raises(RunError, match="round 1: the server's step gave NaN or infinity: lower"):
        server.aggregate(1, CLIENTS)
    assert server.journal.last_committed() == 0


def test_an_adapter_edited_by_hand_is_refused(tmp_path: Path) -> None:
    server = started(tmp_path)
    path = server.blobs.path(server.journal.digest(0))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    play_on = make_server(tmp_path)
    with pytest.raises(RemoteProtocolError, match="BLOB"):
        play_on.check(offer("train-1-client_1-0", b"x"), raw.encode(adapter(1)))


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        raw.encode({}),
        raw.encode({"a": np.zeros(2, np.float64)}),
        raw.encode({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float16)}),
        raw.encode({"a": np.array([np.nan], np.float32)}),
    ],
    ids=["empty file", "no tensors", "float64", "float16", "nan"],
)
def test_a_first_adapter_that_is_none(tmp_path: Path, content: bytes) -> None:
    server = make_server(tmp_path)
    with pytest.raises(RemoteProtocolError):
        server.start(offer("init-0-adapter-0", content), content)
    assert server.journal.last_committed() is None and not (tmp_path / "global_model").exists()


@pytest.mark.parametrize("config", ["", "not JSON", "[1]", "null", '"text"'])
def test_an_adapter_config_that_is_no_object(tmp_path: Path, config: str) -> None:
    server, content = make_server(tmp_path), raw.encode(adapter(0))
    with pytest.raises(RemoteProtocolError, match="adapter_config"):
        server.start(offer("init-0-adapter-0", content, adapter_config=config), content)
    assert server.journal.last_committed() is None


def test_updates_that_do_not_fit(tmp_path: Path) -> None:
    server = started(tmp_path)
    good = adapter(1)
    name = next(iter(good))
    for bad, code in (
        (good | {"more": np.zeros(1, np.float32)}, "SCHEMA"),
        (good | {name: good[name].T}, "SCHEMA"),
        (good | {name: np.full_like(good[name], np.inf)}, "NONFINITE"),
    ):
        with pytest.raises(RemoteProtocolError, match=code):
            server.check(offer("train-1-client_1-0", b""), raw.encode(bad))
    for fields in ({"num_examples": 0}, {"num_tokens": 0}):
        with pytest.raises(RemoteProtocolError, match="EMPTY"):
            server.check(offer("train-1-client_1-0", b"", **fields), raw.encode(good))
    server.check(offer("train-1-client_1-0", b""), raw.encode(good))


def test_an_update_before_the_first_adapter(tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError, match="EARLY"):
        make_server(tmp_path).check(offer("train-1-client_1-0", b""), raw.encode(adapter(1)))


def test_a_version_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="round 3 is not committed"):
        started(tmp_path).adapter(3)


def test_the_first_adapters_bytes_are_kept_as_they_came(tmp_path: Path) -> None:
    server, content = started(tmp_path), raw.encode(adapter(0))
    assert server.blobs.read(server.journal.digest(0)) == content
    assert tensors.digest(load(tmp_path / "global_model" / "round_0")) == tensors.digest(adapter(0))


def test_derived_files(tmp_path: Path) -> None:
    server = started(tmp_path)
    play(server, 1)
    server.aggregate(1, CLIENTS)
    server.write_derived()
    metrics = json.loads((tmp_path / "training_metrics.json").read_text())
    assert metrics["round_metrics"] == server.rounds()
    assert [row["client_id"] for row in server.rounds()[0]["client_metrics"]] == sorted(CLIENTS)


def test_the_norm_of_each_update_is_in_the_metrics(tmp_path: Path) -> None:
    server = started(tmp_path)
    play(server, 1)
    server.aggregate(1, CLIENTS)
    norms = {row["client_id"]: row["update_norm"] for row in server.rounds(1)[0]["client_metrics"]}
    for client in CLIENTS:
        delta = tensors.subtract(adapter(100 + len(client)), adapter(0))
        assert norms[client] == pytest.approx(tensors.l2_norm(delta), rel=1e-12)
