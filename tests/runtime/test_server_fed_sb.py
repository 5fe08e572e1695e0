"""Fed-SB at the server: what each round makes of the updates, what people and workers see of it, and kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from serving import adapter as two_factors
from serving import bring, give, make_server, started

from fedmq import build, tensors
from fedmq.algorithms.lora_core import folded, of_factors
from fedmq.codec import raw
from fedmq.codec.update import update_codec
from fedmq.config import get_default_config
from fedmq.errors import RemoteProtocolError, RunError
from fedmq.recipe import CodecSpec, Part
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.tasks import make_tasks
from fedmq.runtime.uploads import Uploads
from fedmq.storage.checkpoint import checkpoint_of

CLIENTS = ("client_1", "client_2")
CORE = "h.0.attn.lora_R.weight"


def options(**changed: Any) -> dict[str, Any]:
    rule = build.lora_aggregator("fed_sb")._replace(**changed)
    codec = update_codec(CodecSpec("fp32", None, None, None))
    return {
        "aggregator": rule,
        "uploads": Uploads(codec, rule.trained, {}),
        "server_optimizer": build.server_optimizer("nesterov", lr=1.0, momentum=0.5),
        "num_rounds": 5,
        "save_every": 1,
    }


def begun(folder: Path, **changed: Any) -> FederatedServer:
    return started(folder, two_factors(0) | {CORE: np.eye(4, dtype=np.float32)}, **options(**changed))


def version(server: FederatedServer, number: int) -> dict[str, np.ndarray]:
    content = server.blobs.read(server.journal.digest(number))
    return raw.decode(content, raw.read_spec(content))


def play(server: FederatedServer, round: int) -> None:
    """A round but for its end; each client sends the one factor that it trained."""
    factors, before = server.aggregator.trained(round), version(server, round - 1)
    server.open_round(round, [CLIENTS])
    for k, client in enumerate(CLIENTS):
        draw = np.random.default_rng(10 * round + k)
        local = {name: (x + draw.normal(0, 0.1, x.shape)).astype(np.float32) for name, x in before.items()}
        with pytest.raises(RemoteProtocolError, match="SCHEMA"):
            give(server, f"train-{round}-{client}-0", local)
        bring(server, f"train-{round}-{client}-0", raw.encode(of_factors(local, factors)))


def model(adapter: tensors.NamedTensors) -> np.ndarray:
    b, a = (folded(adapter)[f"h.0.attn.lora_{which}.weight"].astype(np.float64) for which in "BA")
    return np.asarray(b @ a)


def moved(before: tensors.NamedTensors, after: tensors.NamedTensors) -> set[str]:
    """The letters of the factors that are others."""
    return {name[-8] for name in after if not np.array_equal(after[name], before[name])}


def test_rounds_of_fed_sb(tmp_path: Path) -> None:
    """Momentum goes on within rounds 1 and 2, and begins anew with the new factors; only R moves from there."""
    server, plain = begun(tmp_path / "a"), begun(tmp_path / "b", rebased=lambda round, adapter: None)
    spec, last = get_default_config().to_run_spec(), version(server, 0)
    for round, moves in ((1, "B"), (2, "ABR"), (3, "R"), (4, "R"), (5, "R")):
        for one in (server, plain) if round <= 2 else (server,):
            play(one, round)
            one.aggregate(round, CLIENTS)
        before, last = last, version(server, round)
        assert moved(before, last) == set(moves)
        assert (server.journal.optimizer(round) is None) == (round == 2)
        (task,) = make_tasks([f"train-{round + 1}-client_1-0"], spec, server, "secret").tasks
        assert task.work.part == Part(server.aggregator.trained(round + 1), None)  # type: ignore[union-attr]
        part = raw.encode({name: last[name] for name in last if name[-8] in moves})
        assert (None if task.delta is None else task.delta.blob.nbytes) == (None if round == 2 else len(part))
        if round == 2:
            same = version(plain, 2)
            np.testing.assert_allclose(model(last), model(same), atol=1e-6)
            assert moved(same, last) == set("ABR"), "but by other factors"
        server.tidy([])
        assert server.journal.bias(round) == pytest.approx(0, abs=1e-9)


def test_what_is_kept_for_people_are_two_factors(tmp_path: Path) -> None:
    server = begun(tmp_path)
    for round in (1, 2, 3, 4, 5):
        play(server, round)
        server.aggregate(round, CLIENTS)
        server.tidy([])
    server.write_derived()
    expected = folded(version(server, 5))
    for name in ("round_5", "round_final"):
        kept = load_file(tmp_path / "global_model" / name / "adapter_model.safetensors")
        assert tensors.digest(kept) == tensors.digest(expected)
    client = load_file(tmp_path / "client_1" / "round_5" / "adapter_model.safetensors")
    assert client.keys() == expected.keys() and moved(expected, client) == {"B"}
    assert checkpoint_of(tmp_path, 4, "0" * 64) == tmp_path / "global_model" / "round_4"


def test_a_server_that_is_killed_in_every_round_comes_to_the_same_bits(tmp_path: Path) -> None:
    whole, broken = begun(tmp_path / "a"), begun(tmp_path / "b")
    for round in (1, 2, 3, 4):
        play(whole, round)
        whole.aggregate(round, CLIENTS)
        play(broken, round)
        broken.journal.freeze_round(round, sorted(CLIENTS))
        broken = make_server(tmp_path / "b", **options())
        assert broken.progress().version == round
        assert broken.journal.digest(round) == whole.journal.digest(round)
        assert broken.journal.optimizer(round) == whole.journal.optimizer(round)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda round, adapter: {CORE: adapter[CORE]}, "it gave other factors than finite ones"),
        (lambda round, adapter: {name: x * np.nan for name, x in adapter.items()}, "it gave other factors than finite"),
        (lambda round, adapter: {name: x.astype(np.float64) for name, x in adapter.items()}, "shapes and dtypes"),
        (lambda round, adapter: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_rule_whose_other_factors_are_none(tmp_path: Path, changed: Any, said: str) -> None:
    server = begun(tmp_path, rebased=changed)
    play(server, 1)
    with pytest.raises(RunError, match=f"round 1: the aggregation rule fed_sb with gain 1 failed: .*{said}"):
        server.aggregate(1, CLIENTS)
    assert server.journal.last_committed() == 0
