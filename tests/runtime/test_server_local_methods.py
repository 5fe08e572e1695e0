"""The coordinator's part in a local method: the steps of an update, and what is durable of a round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from serving import adapter, give, make_server, started

from fedmq import build, tensors
from fedmq.algorithms import weighting
from fedmq.algorithms.local_aggregate import LocalSteps, feddyn, fednova, scaffold
from fedmq.build_rules import update_limits
from fedmq.codec import raw
from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError, RemoteProtocolError
from fedmq.protocol.messages import BlobRef
from fedmq.runtime.aggregation import NOTHING
from fedmq.runtime.control import parted
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.tasks import make_tasks

CLIENTS = ("client_1", "client_2")


def version(server: FederatedServer, number: int) -> dict[str, np.ndarray]:
    content = server.blobs.read(server.journal.digest(number))
    return raw.decode(content, raw.read_spec(content))


def config(method: str, **training: object) -> ExperimentConfig:
    return ExperimentConfig.from_dict({"federated": {"local_method": method}, "training": training})


def test_the_steps_of_an_update_reach_the_rule(tmp_path: Path) -> None:
    rule = fednova(LocalSteps(4, 0.1, 0))
    server = started(tmp_path, aggregator=rule)
    server.open_round(1, [CLIENTS])
    base = adapter(0)
    for k, num_steps in ((1, 1), (2, 3)):  # a_k of 1 and 2
        give(server, f"train-1-client_{k}-0", adapter(k), num_examples=10, num_steps=num_steps)
    server.aggregate(1, CLIENTS)
    one, two = (tensors.subtract(adapter(k), base) for k in (1, 2))
    for name, value in version(server, 1).items():
        assert value == pytest.approx(base[name] + 1.5 * (one[name] + two[name] / 2) / 2, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("num_steps", [0, 1, 29, 31, 10**9])
def test_steps_that_the_examples_do_not_make_are_refused(tmp_path: Path, num_steps: int) -> None:
    limits = update_limits(config("fednova", batch_size=50, gradient_accumulation_steps=2, num_epochs=3))
    server = started(tmp_path, limits=limits)  # each client announced 1000 examples
    server.open_round(1, [CLIENTS])
    with pytest.raises(RemoteProtocolError, match=f"EXAMPLES: {num_steps} steps; 1000 examples make 30"):
        give(server, "train-1-client_1-0", adapter(1), num_steps=num_steps)
    give(server, "train-1-client_1-0", adapter(1), num_steps=30)


def test_steps_are_of_no_concern_to_other_methods() -> None:
    assert update_limits(config("fedprox")).num_steps is None


def test_a_rule_of_ones_own_and_one_of_the_method_are_refused(tmp_path: Path) -> None:
    journal = make_server(tmp_path).journal
    with pytest.raises(ConfigError, match="local_method 'fednova' averages by itself, and an aggregator was given"):
        build.server(config("fednova"), tmp_path, journal, own_aggregator=build.aggregator("fedavg"))
    assert build.server(config("fednova"), tmp_path, journal).aggregator.name == "fednova"


def test_what_feddyn_leaves_is_durable(tmp_path: Path) -> None:
    """h of the first round moves the model in the second, of a server that was started anew in between."""
    digests = []
    for name in ("whole", "restarted", "forgetful"):
        rule = feddyn(LocalSteps(4, 0.1, 0), alpha=0.5)
        server = started(tmp_path / name, aggregator=rule, weighting=weighting.uniform)
        for round in (1, 2):
            server.open_round(round, [CLIENTS])
            for k in (1, 2):
                give(server, f"train-{round}-client_{k}-0", adapter(10 * round + k))
            if round == 2 and name == "forgetful":
                server._memory = (1, NOTHING)
            server.aggregate(round, CLIENTS)
            if name == "restarted":
                server.journal.close()
                server = make_server(tmp_path / name, aggregator=rule, weighting=weighting.uniform)
        digests.append(server.journal.digest(2))
    assert digests[0] == digests[1] != digests[2]
    base, first = adapter(0), version(server, 1)
    for key, value in first.items():
        total = sum(adapter(k)[key].astype(np.float64) - base[key] for k in (11, 12))
        assert value == pytest.approx(base[key] + total / 2 + total / 4, rel=1e-5, abs=1e-6)


def test_clients_are_told_scaffolds_c_with_the_adapter(tmp_path: Path) -> None:
    """Trainings only, and of the same bytes after a restart; the file is kept while it is in use, and no longer."""
    rule = scaffold(LocalSteps(4, 0.1, 0))
    server = started(tmp_path, aggregator=rule)

    def adapter_of(task: str) -> BlobRef:
        (made,) = make_tasks([task], ExperimentConfig().to_run_spec(), server, "secret").tasks
        assert made.adapter is not None
        return made.adapter

    assert adapter_of("train-1-client_1-0") == server.adapter(0), "c is 0"
    digests = []
    for round in (1, 2):
        server.open_round(round, [CLIENTS])
        for k in (1, 2):
            give(server, f"train-{round}-client_{k}-0", adapter(10 * round + k), num_steps=1)
        server.aggregate(round, CLIENTS)
        told = adapter_of(f"train-{round + 1}-client_1-0")
        server.tidy([])
        assert adapter_of(f"evaluate-{round}-test-0") == server.adapter(round) != told
        found, control = parted(server.blobs.read(told.digest), adapter(0))
        assert told.nbytes == len(server.blobs.read(told.digest))
        assert tensors.digest(found) == tensors.digest(version(server, round))
        assert control.keys() == {f"control:{name}" for name in found}
        digests.append(told.digest)
        server.journal.close()
        server = make_server(tmp_path, aggregator=rule)
        assert adapter_of(f"train-{round + 1}-client_2-0") == told
    assert not server.blobs.has(digests[0])
    base, first = adapter(0), parted(server.blobs.read(digests[1]), adapter(0))[1]
    assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in first.values()) and base


@pytest.mark.parametrize("spoil", ["a foreign name", "a name that is missing", "another shape", "another type"])
def test_a_file_of_another_adapter_is_refused(spoil: str) -> None:
    good = adapter(0) | {f"control:{name}": value for name, value in adapter(1).items()}
    assert parted(raw.encode(good), adapter(0))[1].keys() == {f"control:{name}" for name in adapter(0)}
    name = "control:h.0.attn.lora_A.weight"
    bad = {
        "a foreign name": good | {"control:w": good[name]},
        "a name that is missing": {key: value for key, value in good.items() if key != name},
        "another shape": good | {name: good[name].T.copy()},
        "another type": good | {name: good[name].astype(np.float64)},
    }[spoil]
    with pytest.raises(RemoteProtocolError):
        parted(raw.encode(bad), adapter(0))
