"""Updates whose training began before their round: what is folded, kept, told to the next training, and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from serving import adapter, bring, give, make_server, started, uploads

from fedmq import tensors
from fedmq.algorithms import staleness
from fedmq.algorithms.lora_factors import factors, pairs, relative_bias
from fedmq.runtime.server import FederatedServer

EARLY, LATE = "client_1", "client_2"
SIZES = {EARLY: 30, LATE: 10}


def played(folder: Path, **options: Any) -> FederatedServer:
    """Round 1 is of the first client; in round 2 it comes again, and the second, which began in round 1."""
    server = started(folder, **options)
    server.open_round(1, [[EARLY], [LATE]])
    give(server, f"train-1-{EARLY}-0", adapter(11), num_examples=SIZES[EARLY])
    server.aggregate(1, [EARLY])
    server.open_round(2, [[LATE], [EARLY]], started=[(LATE, 1)])
    give(server, f"train-2-{EARLY}-0", adapter(21), num_examples=SIZES[EARLY])
    give(server, f"train-1-{LATE}-0", adapter(12), num_examples=SIZES[LATE])
    # Nobody trains from version 0 any more, but it is needed until the update is folded.
    server.tidy([])
    return server


def of_version(server: FederatedServer, version: int) -> dict[str, np.ndarray]:
    found = server._updates.version(version)
    assert found is not None
    return dict(found)


def test_its_delta_is_of_the_version_that_it_began_from_and_discounted(tmp_path: Path) -> None:
    server = played(tmp_path, discount=staleness.polynomial(a=1))
    before, first = of_version(server, 1), of_version(server, 0)
    server.aggregate(2, [EARLY, LATE])
    late = tensors.scale(tensors.subtract(adapter(12), first), 0.5)
    fresh = tensors.subtract(adapter(21), before)
    for name, value in of_version(server, 2).items():
        mean = (SIZES[EARLY] * fresh[name] + SIZES[LATE] * late[name]) / 40
        assert (before[name] + mean).astype(np.float32).tobytes() == value.tobytes()


def test_the_buffer_is_divided_by_all_weights(tmp_path: Path) -> None:
    """FedBuff: a buffer of stale updates only moves the model by that much less."""
    moved = {}
    for name, discount in (("constant", staleness.constant()), ("half", staleness.polynomial(a=1))):
        server = played(tmp_path / name, discount=discount)
        before = of_version(server, 1)
        server.aggregate(2, [LATE])
        moved[name] = tensors.l2_norm(tensors.subtract(of_version(server, 2), before))
    assert moved["half"] == pytest.approx(0.5 * moved["constant"], rel=1e-6)


def test_it_counts_in_its_round_and_is_known_by_the_one_in_which_it_began(tmp_path: Path) -> None:
    server = played(tmp_path)
    server.aggregate(2, [EARLY, LATE])
    assert [(row["client"], row["started"]) for row in server.journal.folded(2)] == [(EARLY, 2), (LATE, 1)]
    assert server.journal.rounds(2)[0]["started"] == {LATE: 1}
    digest = server.journal.folded(2)[1]["digest"]
    assert server.journal.last_folded(LATE, 3) == (1, digest), "what the client remembers is of round 1"
    assert server.journal.last_folded(LATE, 2) is None
    shown = {row["client_id"]: row["staleness"] for row in server.rounds(2)[0]["client_metrics"]}
    assert shown == {EARLY: 0, LATE: 1}


def test_what_is_kept_of_it_is_what_came(tmp_path: Path) -> None:
    server = played(tmp_path)
    server.aggregate(2, [EARLY, LATE])
    server.tidy([])
    kept = load_file(tmp_path / LATE / "round_2" / "adapter_model.safetensors")
    assert all(kept[name].tobytes() == value.tobytes() for name, value in adapter(12).items())


def test_it_may_come_in_a_codec_that_needs_its_base(tmp_path: Path) -> None:
    codec = uploads("int8").codec
    server = started(tmp_path, uploads=uploads("int8"), discount=staleness.constant())
    first = of_version(server, 0)
    content, _ = codec.encode(adapter(12), first, {})
    server.open_round(1, [[EARLY], [LATE]])
    bring(server, f"train-1-{EARLY}-0", codec.encode(adapter(11), first, {})[0])
    server.aggregate(1, [EARLY])
    server.tidy([0])
    before = of_version(server, 1)
    server.open_round(2, [[LATE]], started=[(LATE, 1)])
    bring(server, f"train-1-{LATE}-0", content)
    server.aggregate(2, [LATE])
    sent = tensors.subtract(codec.decode(content, first), first)
    for name, value in of_version(server, 2).items():
        assert (before[name] + sent[name]).astype(np.float32).tobytes() == value.tobytes()
    server.tidy([])
    kept = load_file(tmp_path / LATE / "round_2" / "adapter_model.safetensors")
    assert kept.keys() == first.keys()


def test_the_bias_is_of_what_was_folded(tmp_path: Path) -> None:
    server = played(tmp_path, discount=staleness.polynomial(a=1))
    before, first = of_version(server, 1), of_version(server, 0)
    server.aggregate(2, [EARLY, LATE])
    server.tidy([])
    late = tensors.add(before, tensors.scale(tensors.subtract(adapter(12), first), 0.5))
    weighted = [(30.0, adapter(21)), (10.0, late)]
    expected = relative_bias(factors(weighted, pair) for pair in pairs(before))
    assert server.journal.bias(2) == pytest.approx(expected, rel=1e-12)


def test_a_server_that_comes_back_knows_who_trains_from_what(tmp_path: Path) -> None:
    server = played(tmp_path)
    server.journal.close()
    progress = make_server(tmp_path).progress()
    assert progress.started == ((LATE, 1),)
    assert progress.selected == ((LATE,), (EARLY,))
    assert dict(progress.accepted).keys() == {EARLY, LATE}


def test_places_that_are_filled_take_the_place_of_the_selection(tmp_path: Path) -> None:
    server = started(tmp_path)
    server.open_round(1, [[EARLY]])
    server.open_round(1, [[EARLY], [LATE]], draw=1)
    assert server.progress().selected == ((EARLY,), (LATE,))
    assert server.select(1, [], 0, 2) == (), "no place is free: nothing is drawn"
