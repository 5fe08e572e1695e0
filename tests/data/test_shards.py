"""Shards: what is written is read, the same texts give the same bytes, damage is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmq.atomic import replacing_folder
from fedmq.data.shards import ShardInfo, open_split, read_info, write_shard
from fedmq.errors import DataError, LocalProtocolError, StorageError

EOS = 9
TEXTS = [np.array([1, 2, EOS]), np.array([EOS]), np.array([3, 4, 5, EOS])]


def write(folder: Path, texts: list[np.ndarray] = TEXTS, vocab_size: int = 10, **splits: list[np.ndarray]) -> ShardInfo:
    return write_shard(
        folder,
        kind="client",
        client_id="client_3",
        splits={"train": texts, "val": [], **splits},
        tokenizer_digest="abc",
        max_length=4,
        eos_token_id=EOS,
        vocab_size=vocab_size,
        statistics={"authors": 2, "author": "zoë"},
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(10, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_round_trip(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    texts = [*TEXTS, np.array([vocab_size - 1, EOS])]
    written = write(tmp_path / "parent" / "shard", texts, vocab_size)
    assert read_info(tmp_path / "parent" / "shard") == written
    assert (written.dtype, written.client_id, written.splits["train"].num_tokens) == (dtype, "client_3", 10)
    split = open_split(tmp_path / "parent" / "shard", "train")
    assert len(split) == 4
    assert [text.tolist() for text in split] == [text.tolist() for text in texts]
    assert split[-1].tolist() == texts[-1].tolist()
    assert split.lengths.tolist() == [3, 1, 4, 2]
    assert (split[0].dtype.name, type(split[0])) == (dtype, np.ndarray)


def test_an_empty_split_and_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path / "shard")
    val = open_split(tmp_path / "shard", "val")
    assert len(val) == 0
    assert list(val) == []
    with pytest.raises(DataError, match="no split 'test'; this client shard has train, val"):
        open_split(tmp_path / "shard", "test")


def test_index_outside_and_views_are_read_only(tmp_path: Path) -> None:
    write(tmp_path / "shard")
    split = open_split(tmp_path / "shard", "train")
    for index in (3, -4):
        with pytest.raises(IndexError):
            split[index]
    with pytest.raises(ValueError, match="read-only"):
        split[0][0] = 7


def test_same_texts_same_bytes_and_other_texts_another_digest(tmp_path: Path) -> None:
    first, second, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", TEXTS[::-1])
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert first == second
    assert first.splits["train"].sha256 != other.splits["train"].sha256


def test_where_texts_are_cut_is_part_of_the_digest(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", [np.array([1, EOS, 2, EOS])])
    cut = write(tmp_path / "b", [np.array([1, EOS]), np.array([2, EOS])])
    assert (tmp_path / "a" / "train.tokens").read_bytes() == (tmp_path / "b" / "train.tokens").read_bytes()
    assert whole.splits["train"].sha256 != cut.splits["train"].sha256


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    write(tmp_path / "shard")
    assert (tmp_path / "shard" / "train.tokens").read_bytes() == np.concatenate(TEXTS).astype("<u2").tobytes()
    assert np.load(tmp_path / "shard" / "train.offsets.npy").tolist() == [0, 3, 4, 8]
    manifest = json.loads((tmp_path / "shard" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest) == sorted(manifest)
    assert manifest["splits"]["train"]["num_examples"] == 3


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ([1, 2], "does not end with EOS"),
        ([1, 2, 3, 4, EOS], "5 tokens, expected 1 to 4"),
        ([], "0 to 0 tokens"),
        ([10, EOS], "expected 0 to 9"),
        ([-1, EOS], "expected 0 to 9"),
    ],
)
def test_malformed_texts_are_our_bug_and_leave_nothing(tmp_path: Path, text: list[int], what: str) -> None:
    with pytest.raises(LocalProtocolError, match=what):
        write(tmp_path / "shard", [np.array(text, np.int64)])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_leaves_the_old_shard(tmp_path: Path) -> None:
    write(tmp_path / "shard")
    before = content(tmp_path / "shard")
    with pytest.raises(LocalProtocolError):
        write(tmp_path / "shard", extra=[np.array([1])])
    assert content(tmp_path / "shard") == before
    write(tmp_path / "shard", TEXTS[:1])
    assert len(open_split(tmp_path / "shard", "train")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "file" / "shard")


def test_not_a_shard(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"not a data shard \(no manifest.json\)"):
            read_info(folder)


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "splits": []}'])
def test_a_manifest_that_is_none(tmp_path: Path, manifest: str) -> None:
    write(tmp_path / "shard")
    (tmp_path / "shard" / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match="damaged|shard format"):
        read_info(tmp_path / "shard")


def test_truncated_missing_or_changed_files(tmp_path: Path) -> None:
    tokens, offsets = tmp_path / "shard" / "train.tokens", tmp_path / "shard" / "train.offsets.npy"
    write(tmp_path / "shard")
    good = tokens.read_bytes()
    tokens.write_bytes(good[:-2])
    with pytest.raises(DataError, match="14 bytes for 8 uint16 tokens"):
        read_info(tmp_path / "shard")
    tokens.write_bytes(b"\x07" + good[1:])
    read_info(tmp_path / "shard")
    with pytest.raises(DataError, match="not those that were written"):
        open_split(tmp_path / "shard", "train")
    tokens.write_bytes(good)
    offsets.write_bytes(b"no numpy file")
    with pytest.raises(DataError, match=r"train.offsets.npy cannot be read"):
        open_split(tmp_path / "shard", "train")
    tokens.unlink()
    with pytest.raises(DataError, match="damaged"):
        read_info(tmp_path / "shard")


def test_replacing_folder_cleans_up_after_any_exception(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")

    def write_half() -> None:
        with replacing_folder(tmp_path / "out") as temporary:
            (temporary / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_the_agent_can_read_shards_without_pandas_or_torch() -> None:
    code = "import sys, fedmq.data.shards; print([m for m in ('pandas', 'torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
