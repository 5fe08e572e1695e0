"""Shards of baselines: all rows count the same for who trains on all, and every client is scored on the one test."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.data.baseline_shards import pooled, with_test_split
from fedmq.data.shards import PARTITION, SHARD_FORMAT, TokenizerInfo, open_split, read_info, read_partition, write_shard

INFO = TokenizerInfo("abc", 999, 1000, 4)
SIZES = {"client_0": 4, "client_1": 7, "client_2": 1, "client_3": 12}


def shard(folder: Path, kind: str, client: str | None, **splits: list[np.ndarray]) -> None:
    _, eos, vocab_size, longest = INFO
    write_shard(
        folder,
        kind=kind,
        client_id=client,
        splits=splits,
        tokenizer_digest=INFO.digest,
        max_length=longest,
        eos_token_id=eos,
        vocab_size=vocab_size,
        statistics={},
    )


@pytest.fixture
def dealt(tmp_path: Path) -> Path:
    """Four clients: text k of client c is (100 c + k, EOS), its val text 50 more."""
    out = tmp_path / "data"
    for c, (client, size) in enumerate(SIZES.items()):
        texts = [np.array([100 * c + k, 999]) for k in range(size)]
        shard(out / "clients" / client, "client", client, train=texts, val=[np.array([100 * c + 50, 999])])
    shard(out / "test", "test", None, test=[np.array([1, 2, 999])])
    clients = [{"client_id": client} for client in SIZES]
    content = {"format": SHARD_FORMAT, "inputs": "dealt", "clients": clients, "test": {"rows": 1, "tokens": 3}}
    (out / PARTITION).write_text(json.dumps(content))
    return out


def pool(dealt: Path, **options: Any) -> list[list[int]]:
    """The slices, each as the first tokens of its texts."""
    given = {"num_slices": 2, "clients_per_round": 2, "own_texts": False, "inputs": "made"}
    every = {"used": lambda client, texts: np.arange(len(texts)), "generator": np.random.default_rng(0)}
    content = pooled(dealt, INFO, **every | given | options)
    assert content == read_partition(dealt) and content["inputs"] == "made"
    return [[int(t[0]) for t in open_split(dealt / "clients" / c["client_id"], "train")] for c in content["clients"]]


def test_all_rows_count_the_same(dealt: Path) -> None:
    texts = {100 * c + k for c, size in enumerate(SIZES.values()) for k in range(size)}
    # 3 of 4 clients in a round: 4 slices of 18 rows, three times around 24.
    slices = pool(dealt, num_slices=4, clients_per_round=3)
    assert [len(rows) for rows in slices] == [18] * 4
    assert Counter(row for rows in slices for row in rows) == dict.fromkeys(texts, 3)
    assert all(len(set(rows)) == 18 for rows in slices)
    assert slices[0] != sorted(slices[0]), "they are shuffled"
    assert [int(t[1]) for t in open_split(dealt / "test", "test")] == [2]


def test_rows_that_the_run_leaves_out_are_in_no_slice(dealt: Path) -> None:
    slices = pool(dealt, used=lambda client, texts: np.arange(min(3, len(texts))))
    assert sorted(row for rows in slices for row in rows) == [0, 1, 2, 100, 101, 102, 200, 300, 301, 302]


def test_own_texts_are_scored_in_place_of_the_test(dealt: Path) -> None:
    pool(dealt, num_slices=4, own_texts=True)
    held_out = [int(open_split(dealt / "clients" / client, "test")[0][0]) for client in SIZES]
    assert held_out == [50, 150, 250, 350] and not len(open_split(dealt / "test", "test"))


def test_clients_with_the_test_of_all(dealt: Path) -> None:
    before = {client: read_info(dealt / "clients" / client).splits for client in SIZES}
    assert with_test_split(dealt, "made") == read_partition(dealt)
    test = read_info(dealt / "test").splits["test"]
    for client, splits in before.items():
        assert read_info(dealt / "clients" / client).splits == splits | {"test": test}
        assert [text.tolist() for text in open_split(dealt / "clients" / client, "test")] == [[1, 2, 999]]
