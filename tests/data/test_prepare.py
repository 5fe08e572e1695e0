"""From a CSV to shards: the texts come back, equal inputs give equal bytes and are reused, nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.data.dataset import FederatedDataset
from fedmq.data.prepare import (
    ENCODE_BATCH,
    partition_inputs,
    prepare_owner,
    prepare_partition,
    reusable_partition,
)
from fedmq.data.shards import TokenizerInfo, open_split, read_info, read_partition
from fedmq.errors import DataError, LocalProtocolError
from fedmq.recipe import DataSpec

TOKENIZER = TokenizerInfo(digest="bytes", eos_token_id=256, vocab_size=257, max_length=1000)
DATA = DataSpec("text", "author_id", 0.8, 0.1, 0.1, filter_min_length=5, filter_inbound_only=False)


def encode(texts: list[str]) -> list[np.ndarray]:
    assert 0 < len(texts) <= ENCODE_BATCH
    return [np.array([*text.encode()[:999], 256]) for text in texts]


def decode(split: Any) -> list[str]:
    return [bytes(text[:-1].astype(np.uint8)).decode() for text in split]


def save(folder: Path, rows: int = 100, name: str = "tweets.csv") -> Path:
    path = folder / name
    path.write_text(
        "author_id,text\n" + "".join(f"a{i % 7},tweet number {i} 😡\n" for i in range(rows)), encoding="utf-8"
    )
    return path


def prepare(path: Path, out: Path, method: str = "iid", num_clients: int = 3, data: DataSpec = DATA) -> dict[str, Any]:
    dataset = FederatedDataset(path, data, 42)
    clients = dataset.partition(method, num_clients, 1)
    inputs = partition_inputs(path, data, 42, method, num_clients, 1, {}, TOKENIZER)
    return prepare_partition(dataset, clients, encode, TOKENIZER, out, inputs=inputs)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", ["iid", "non_iid", "by_author"])
def test_each_shard_holds_its_clients_texts(tmp_path: Path, method: str) -> None:
    path, out = save(tmp_path), tmp_path / "run" / "data"
    prepare(path, out, method)
    dataset = FederatedDataset(path, DATA, 42)
    assert decode(open_split(out / "test", "test")) == dataset.test["text"].tolist()
    for client in dataset.partition(method, 3, 1):
        folder = out / "clients" / client.client_id
        assert decode(open_split(folder, "train")) == dataset.train["text"].iloc[client.train].tolist()
        assert decode(open_split(folder, "val")) == dataset.val["text"].iloc[client.val].tolist()
        assert read_info(folder).client_id == client.client_id


def test_statistics_are_returned_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "data"
    statistics = prepare(save(tmp_path), out, "by_author")
    assert statistics == read_partition(out) == json.loads((out / "partition.json").read_text())
    assert statistics["splits"] == {"train": 80, "val": 10, "test": 10}
    assert statistics["test"] == {"rows": 10, "tokens": open_split(out / "test", "test").lengths.sum()}
    row = statistics["clients"][1]
    info = read_info(out / "clients" / "client_1")
    assert (row["rows"], row["tokens"]) == (info.splits["train"].num_examples, info.splits["train"].num_tokens)
    assert (row["val_rows"], row["val_tokens"]) == (info.splits["val"].num_examples, info.splits["val"].num_tokens)
    assert (info.statistics["authors"], info.statistics["author"]) == (1, row["author"])


def test_real_tweets(shared_data: Path, tmp_path: Path) -> None:
    data = DataSpec("text", "author_id", 0.8, 0.1, 0.1, filter_min_length=10, filter_inbound_only=True)
    dataset = FederatedDataset(shared_data / "twcs_sample.csv", data, 42)
    clients = dataset.partition("iid", 5)
    statistics = prepare_partition(dataset, clients, encode, TOKENIZER, tmp_path / "data", inputs="real")
    texts = [
        text for k in range(5) for text in decode(open_split(tmp_path / "data" / "clients" / f"client_{k}", "train"))
    ]
    assert sorted(texts) == sorted(dataset.train["text"])
    assert sum(row["tokens"] for row in statistics["clients"]) == sum(len(text.encode()) + 1 for text in texts)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    path = save(tmp_path)
    prepare(path, tmp_path / "a")
    prepare(path, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_partition_from_the_same_inputs_is_reused_as_it_is(tmp_path: Path) -> None:
    path, out = save(tmp_path), tmp_path / "data"
    first = prepare(path, out)
    inode = (out / "partition.json").stat().st_ino
    assert prepare(path, out) == first
    assert (out / "partition.json").stat().st_ino == inode
    assert reusable_partition(out, first["inputs"]) == first
    assert reusable_partition(out, "other") is None
    assert reusable_partition(tmp_path / "none", first["inputs"]) is None


def test_other_inputs_or_damage_make_it_again(tmp_path: Path) -> None:
    path, out = save(tmp_path), tmp_path / "data"
    prepare(path, out, num_clients=3)
    assert len(prepare(path, out, num_clients=2)["clients"]) == 2
    assert sorted(entry.name for entry in (out / "clients").iterdir()) == ["client_0", "client_1"]
    before = content(out)
    (out / "clients" / "client_1" / "train.tokens").write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        read_partition(out)
    prepare(path, out, num_clients=2)
    assert content(out) == before
    (out / "clients" / "client_1" / "manifest.json").unlink()
    prepare(path, out, num_clients=2)
    assert content(out) == before


def test_inputs_tell_everything_apart(tmp_path: Path) -> None:
    path, longer = save(tmp_path), save(tmp_path, 101, "longer.csv")
    spec, tokenizer = DATA, TOKENIZER
    calls = [
        (path, spec, 42, "iid", 3, 1, {}, tokenizer),
        (longer, spec, 42, "iid", 3, 1, {}, tokenizer),
        (path, DataSpec("text", "author_id", 0.8, 0.1, 0.1, 6, False), 42, "iid", 3, 1, {}, tokenizer),
        (path, spec, 43, "iid", 3, 1, {}, tokenizer),
        (path, spec, 42, "non_iid", 3, 1, {}, tokenizer),
        (path, spec, 42, "iid", 4, 1, {}, tokenizer),
        (path, spec, 42, "iid", 3, 2, {}, tokenizer),
        (path, spec, 42, "length", 3, 1, {}, tokenizer),
        (path, spec, 42, "length", 3, 1, {"sigma": 1.0}, tokenizer),
        (path, spec, 42, "iid", 3, 1, {}, tokenizer._replace(digest="other")),
        (path, spec, 42, "iid", 3, 1, {}, tokenizer._replace(max_length=64)),
    ]
    assert len({partition_inputs(*call) for call in calls}) == len(calls)
    assert partition_inputs(*calls[0]) == partition_inputs(save(tmp_path, 100, "copy.csv"), *calls[0][1:])
    with pytest.raises(DataError, match="no such file"):
        partition_inputs(tmp_path / "none.csv", *calls[0][1:])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    path, out = save(tmp_path), tmp_path / "mine"
    out.mkdir()
    prepare(path, out)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="holds files that are no partition"):
        prepare(path, out, num_clients=2)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(DataError, match="is a file, expected a folder"):
        prepare(path, path)


def test_a_failing_encode_leaves_nothing(tmp_path: Path) -> None:
    dataset = FederatedDataset(save(tmp_path), DATA, 42)
    clients = dataset.partition("iid", 2)
    with pytest.raises(LocalProtocolError, match="39 arrays for 40 texts"):
        prepare_partition(dataset, clients, lambda texts: encode(texts[1:]), TOKENIZER, tmp_path / "data", inputs="x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tweets.csv"]


def test_a_test_split_without_rows_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 4)
    with pytest.raises(DataError, match=r"4 rows kept, none for the test split \(data.test_split 0.1\)"):
        prepare(path, tmp_path / "data", num_clients=2)
    none_wanted = DataSpec("text", "author_id", 0.8, 0.2, 0.0, 5, False)
    assert prepare(path, tmp_path / "data", num_clients=2, data=none_wanted)["test"] == {"rows": 0, "tokens": 0}


def test_an_owners_shard_holds_its_own_three_splits(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("text\n" + "".join(f"note number {i}\n" for i in range(2500)))
    info = prepare_owner(path, "hospital_a", DATA, 42, encode, TOKENIZER, tmp_path / "shard")
    assert info == read_info(tmp_path / "shard")
    assert (info.kind, info.client_id, info.dtype) == ("client", "hospital_a", "uint16")
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 2000, "val": 250, "test": 250}
    assert (info.statistics["rows_read"], info.statistics["authors"]) == (2500, None)
    texts = [text for name in info.splits for text in decode(open_split(tmp_path / "shard", name))]
    assert sorted(texts) == sorted(f"note number {i}" for i in range(2500))
    again = prepare_owner(path, "hospital_a", DATA, 42, encode, TOKENIZER, tmp_path / "shard")
    assert again == info


def test_an_owner_with_inbound_only_needs_the_column(tmp_path: Path) -> None:
    path = save(tmp_path)
    inbound = DataSpec("text", "author_id", 0.8, 0.1, 0.1, 5, filter_inbound_only=True)
    with pytest.raises(DataError, match=r"no column 'inbound' .* the file has author_id, text"):
        prepare_owner(path, "clinic", inbound, 42, encode, TOKENIZER, tmp_path / "shard")
    assert not (tmp_path / "shard").exists()


def test_texts_cut_to_max_length_are_counted_and_end_with_eos(tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    # 100 rows of 20 bytes, every fifth of 40: with the EOS 21 and 41 tokens.
    path.write_text("author_id,text\n" + "".join(f"a,{i:020d}{'x' * 20 * (i % 5 == 0)}\n" for i in range(100)))
    tokenizer = TOKENIZER._replace(max_length=21)
    dataset = FederatedDataset(path, DATA, 42)
    clients = dataset.partition("iid", 3, 1)
    statistics = prepare_partition(dataset, clients, encode, tokenizer, tmp_path / "out", inputs="x")
    of_clients, longest = [client["truncated"] for client in statistics["clients"]], 0
    assert statistics["truncated"] == 20 and 0 < sum(of_clients) <= 20
    for folder in sorted((tmp_path / "out" / "clients").iterdir()):
        for text in open_split(folder, "train"):
            assert text[-1] == 256 and len(text) <= 21
            longest = max(longest, len(text))
    assert longest == 21
    info = prepare_owner(path, "client_a", DATA, 42, encode, tokenizer, tmp_path / "owner")
    assert info.statistics["truncated"] == 20
