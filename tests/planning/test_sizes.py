"""Bytes of a round before it: those that the codecs and the rule of the run make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq import build
from fedmq.codec import raw
from fedmq.config import ExperimentConfig
from fedmq.planning.sizes import Sizes, measure_sizes
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE, new_meta

CLIENTS = ["client_0", "client_1"]


def adapter(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    names = {"h.0.c.lora_A.weight": (8, 600), "h.0.c.lora_B.weight": (900, 8)}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in names.items()}


def sizes(folder: Path, lora: dict[str, Any] | None = None, count: int = 2, **federated: Any) -> Sizes:
    config = ExperimentConfig.from_dict(
        {"federated": {"num_clients": 2, "clients_per_round": 2} | federated, "lora": lora or {}}
    )
    journal = Journal.create(folder / DATABASE, new_meta("{}", "{}"))
    server = build.server(config, folder, journal)
    base = {name: value for name, value in adapter(0).items() if federated.get("lora_aggregation") != "local"}
    local = {name: value + 0.01 * adapter(1)[name] for name, value in base.items()}
    start = server.uploads.start("client_0", 1, base)
    codec = server.uploads.of("client_0", 1)
    update, _ = codec.encode(server.uploads.start("client_0", 1, local), start, codec.init(start))
    found = measure_sizes(server, raw.encode(base), update, "client_0", CLIENTS, count)
    journal.close()
    return found


WHOLE = len(raw.encode(adapter(0)))
A, B = (len(raw.encode({name: value})) for name, value in adapter(0).items())


@pytest.mark.parametrize(
    ("federated", "up", "first", "later"),
    [
        ({}, WHOLE, WHOLE, WHOLE),
        ({"lora_aggregation": "ffa"}, B, WHOLE, B),
        ({"lora_aggregation": "rolora"}, (A + B) / 2, WHOLE, (A + B) / 2),
        # What the mean of two clients' factors loses has the rank of one of them.
        ({"lora_aggregation": "fedex"}, WHOLE, WHOLE, 2 * WHOLE),
        ({"lora_aggregation": "local"}, 16, 16, 16),
        ({"upload_codec": "int8", "download_codec": "int4"}, WHOLE / 4, WHOLE, WHOLE / 8),
        ({"server_optimizer": "nesterov", "upload_codec": "sign"}, WHOLE / 32, WHOLE, WHOLE),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_sizes(tmp_path: Path, federated: dict[str, Any], up: float, first: float, later: float) -> None:
    found = sizes(tmp_path, **federated)
    # Two rounds: in each its turn.
    assert sum(found.up[r]["client_0"] for r in (1, 2)) / 2 == pytest.approx(up, rel=0.15)
    assert found.up[3] == found.up[1] and found.up[1]["client_0"] == found.up[1]["client_1"]
    assert found.down_first == pytest.approx(first, rel=0.01)
    assert sum(found.down_after[r] for r in (1, 2)) / 2 == pytest.approx(later, rel=0.15)


def test_clients_of_different_ranks(tmp_path: Path) -> None:
    found = sizes(tmp_path, {"rank_per_client": {"client_1": 2}}, lora_aggregation="flexlora")
    assert found.up[1]["client_0"] == WHOLE and found.up[1]["client_1"] == pytest.approx(WHOLE / 4, rel=0.02)


def test_what_is_merged_grows_with_the_clients(tmp_path: Path) -> None:
    assert sizes(tmp_path, count=4, lora_aggregation="fedex").down_after[1] == pytest.approx(4 * WHOLE, rel=0.02)
