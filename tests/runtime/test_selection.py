"""ClientSelection: what a rule is told is what the journal has of committed rounds, and what it answers is checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import adapter, give, make_server, started

from fedmq import tensors
from fedmq.algorithms import sampling, weighting
from fedmq.algorithms.candidates import Candidate, Draw, Selection
from fedmq.errors import RunError
from fedmq.runtime.server import FederatedServer
from fedmq.storage.hosted import Hosted

CLIENTS = [f"client_{k}" for k in range(6)]
SIZES = {client: 100 * (k + 1) for k, client in enumerate(CLIENTS)}


def announce(server: FederatedServer, **sizes: int) -> None:
    server.journal.put(**{Hosted.key(c): Hosted(n, 25 * n, ("w0",)).encoded() for c, n in sizes.items()})


def play(server: FederatedServer, round: int, draw: int = 0, order: int = 1, late: Sequence[str] = ()) -> list[str]:
    """One round, as the coordinator plays it: drawn, opened, updates in any order, committed. Returns who was drawn.

    Those in `late` deliver, but their update is not in the committed set.
    """
    chosen = list(server.select(round, CLIENTS, 3, draw))
    server.open_round(round, [[client] for client in chosen], draw)
    for client in chosen[::order]:
        loss, seconds = 1 + SIZES[client] % 7 + round / 10, 0.5 * SIZES[client]
        fields = {"num_examples": SIZES[client], "num_tokens": 20 * SIZES[client], "train_loss": loss}
        give(server, f"train-{round}-{client}-0", adapter(100 * round + SIZES[client]), train_seconds=seconds, **fields)
    server.aggregate(round, [client for client in chosen if client not in late])
    return chosen


def known(server: FederatedServer, round: int) -> dict[str, Candidate]:
    return {one.client_id: one for one in server.selection.candidates(round, CLIENTS)}


def test_what_a_rule_is_told(tmp_path: Path) -> None:
    server = started(tmp_path)
    announce(server, **SIZES)
    before = known(server, 1)
    assert before["client_2"] == Candidate("client_2", weight=300.0, num_examples=300, num_tokens=7500)
    assert list(before) == sorted(CLIENTS)
    first = play(server, 1)
    second = play(server, 2, late=[max(CLIENTS, key=SIZES.__getitem__)])
    after = known(server, 3)
    for client in CLIENTS:
        rounds = tuple(r for r, chosen in ((2, second), (1, first)) if client in chosen)
        assert after[client].selected == rounds
        folded = [r for r in rounds if (r, client) != (2, "client_5")]
        if not folded:
            assert after[client] == before[client]._replace(selected=rounds)
            continue
        assert after[client].last_trained == folded[0]
        assert after[client].train_loss == 1 + SIZES[client] % 7 + folded[0] / 10
        assert after[client].train_seconds == 0.5 * SIZES[client]


def test_only_committed_rounds_are_told(tmp_path: Path) -> None:
    server = started(tmp_path)
    announce(server, **SIZES)
    play(server, 1)
    told = known(server, 2)
    chosen = server.select(2, CLIENTS, 3)
    server.open_round(2, [[client] for client in chosen])
    give(server, f"train-2-{chosen[0]}-0", adapter(5), num_examples=10)
    assert known(server, 2) == told
    again = make_server(tmp_path)
    assert {one.client_id: one for one in again.selection.candidates(2, CLIENTS)} == told


def test_a_client_that_nobody_has_announced_is_taken_for_the_lightest(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    announce(server, client_1=70, client_2=50)
    found = known(server, 1)
    assert [(one.weight, one.num_examples) for one in found.values()][:3] == [(50.0, 0), (70.0, 70), (50.0, 50)]


def test_weights_are_those_of_the_weighting_capped(tmp_path: Path) -> None:
    server = started(tmp_path, weighting=weighting.capped(weighting.by_tokens, 200))
    announce(server, **SIZES)
    assert [one.weight for one in known(server, 1).values()] == [2500.0, *[5000.0] * 5]


@pytest.mark.parametrize("name", sampling.BY_NAME)
def test_a_resumed_run_draws_the_same_in_whatever_order_updates_came(tmp_path: Path, name: str) -> None:
    runs = []
    for k, (restarted, order) in enumerate(itertools.product([False, True], [1, -1])):
        folder = tmp_path / str(k)
        server = started(folder, sampler=sampling.BY_NAME[name]())
        announce(server, **SIZES)
        drawn = []
        for round in range(1, 5):
            if restarted:
                server.journal.close()
                server = make_server(folder, sampler=sampling.BY_NAME[name]())
                server.progress()
            drawn.append(play(server, round, order=order))
        runs.append((drawn, [server.journal.digest(round) for round in range(1, 5)]))
    assert all(run == runs[0] for run in runs)
    assert len({tuple(chosen) for chosen in runs[0][0]}) > 1


# --- weights that the draw decides


def weighted_mean(server: FederatedServer, round: int, weights: dict[str, float]) -> dict[str, np.ndarray]:
    before = adapter(0)
    deltas = {c: tensors.subtract(adapter(100 * round + SIZES[c]), before) for c in weights}
    total = sum(weights.values())
    return {n: before[n] + sum(w * deltas[c][n] for c, w in weights.items()) / total for n in before}


def test_drawn_by_size_and_not_weighted_by_it_again(tmp_path: Path) -> None:
    server = started(tmp_path, sampler=sampling.weighted())
    announce(server, **SIZES)
    chosen = play(server, 1)
    weights = server.journal.weights(1)
    assert weights is not None and list(weights) == chosen
    # 2100 examples, 3 draws: nobody has more than 700, so all count alike, whatever their sizes.
    assert set(weights.values()) == {700.0}
    expected = weighted_mean(server, 1, dict.fromkeys(chosen, 1.0))
    for name, value in server._version(1).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


def test_a_large_client_counts_its_own_weight(tmp_path: Path) -> None:
    server = started(tmp_path, sampler=sampling.weighted())
    announce(server, **{**SIZES, "client_5": 6000})
    chosen = play(server, 1)
    weights = server.journal.weights(1)
    # The other five have 1500 examples, for two draws.
    assert weights == {client: 6000.0 if client == "client_5" else 750.0 for client in chosen}
    expected = weighted_mean(server, 1, weights)
    for name, value in server._version(1).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


def test_weights_outlive_a_crash_and_a_draw_anew_replaces_them(tmp_path: Path) -> None:
    server = started(tmp_path, sampler=sampling.weighted())
    announce(server, **SIZES)
    first = server.select(1, CLIENTS, 3)
    server.open_round(1, [[client] for client in first])
    abandoned = server.journal.weights(1)
    assert abandoned is not None and set(abandoned) == set(first)
    chosen = list(server.select(1, CLIENTS, 3, 1))
    server.open_round(1, [chosen], 1)
    assert set(server.journal.weights(1) or ()) == set(chosen) != set(first)
    for client in chosen:
        give(server, f"train-1-{client}-0", adapter(SIZES[client]), num_examples=SIZES[client])
    # Frozen, and killed before it was folded: the new process has only the journal.
    server.journal.freeze_round(1, chosen)
    server.journal.close()
    again = make_server(tmp_path)
    assert again.progress().version == 1
    assert again.journal.weights(1) == dict.fromkeys(chosen, 700.0)
    before = adapter(0)
    deltas = [tensors.subtract(adapter(SIZES[client]), before) for client in chosen]
    for name, value in again._version(1).items():
        expected = before[name] + sum(delta[name] for delta in deltas) / 3
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_without_weights_the_weighting_counts(tmp_path: Path) -> None:
    server = started(tmp_path)
    announce(server, **SIZES)
    chosen = play(server, 1)
    assert server.journal.weights(1) is None
    expected = weighted_mean(server, 1, {client: float(SIZES[client]) for client in chosen})
    for name, value in server._version(1).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


# --- rules of others


def rule(answer: Any) -> Any:
    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    return choose


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["client_0", "client_1"], "gave client_0, client_1: expected 3 different ones of the 6 clients"),
        (["client_0", "client_1", "client_1"], "gave client_0, client_1, client_1: expected 3 different"),
        (["client_0", "client_1", "client_9"], "gave client_0, client_1, client_9: expected 3 different"),
        ([], "gave none: expected 3"),
        (None, "failed: TypeError: 'NoneType' object is not iterable"),
        (ZeroDivisionError("division by zero"), "failed: ZeroDivisionError: division by zero"),
        (dict.fromkeys(CLIENTS[:3], 0.0), "gave client_0 the weight 0.0: expected a finite one > 0"),
        (dict.fromkeys(CLIENTS[:3], float("nan")), "gave client_0 the weight nan"),
        ({"client_0": 1.0, "client_1": "2", "client_2": float("inf")}, "gave client_2 the weight inf"),
    ],
)
def test_a_rule_that_is_wrong_fails_the_run_in_one_line(tmp_path: Path, answer: Any, said: str) -> None:
    server = started(tmp_path, sampler=rule(answer))
    with pytest.raises(RunError) as caught:
        server.select(1, CLIENTS, 3)
    assert str(caught.value).startswith("round 1: the selection of the test ")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_rule_may_answer(tmp_path: Path) -> None:
    for k, answer in enumerate((("client_2", "client_0", "client_1"), {"client_1", "client_0", "client_2"})):
        server = started(tmp_path / str(k), sampler=rule(answer))
        assert server.select(1, CLIENTS, 3) == ("client_0", "client_1", "client_2")
