"""Shards: tokenised texts of one client, or of the global test set, as flat files that are memory-mapped.

A shard is a folder:

    manifest.json          one JSON object, keys sorted: the fields of ShardInfo
    <split>.tokens         the token ids of all texts, one after the other, little-endian uint16 or uint32
    <split>.offsets.npy    int64, num_examples + 1: text i is tokens[offsets[i]:offsets[i + 1]], EOS last

A partition is a folder of shards: clients/<client_id>/, test/, and partition.json with the statistics.

The same texts give the same bytes. A shard appears under its name whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedmq.atomic import replacing_folder, write_bytes
from fedmq.errors import DataError, LocalProtocolError

SHARD_FORMAT = 1
MANIFEST = "manifest.json"
PARTITION = "partition.json"


class TokenizerInfo(NamedTuple):
    """What must be known of the tokenizer that made a shard; `max_length` counts tokens, EOS included."""

    digest: str
    eos_token_id: int
    vocab_size: int
    max_length: int


@dataclass(frozen=True)
class SplitInfo:
    """One split: `num_tokens` counts every stored token, EOS included; `sha256` covers tokens, then offsets."""

    num_examples: int
    num_tokens: int
    sha256: str


@dataclass(frozen=True)
class ShardInfo:
    """The manifest. `kind` is "client" or "test"; `client_id` is None for the test shard."""

    format: int
    kind: str
    client_id: str | None
    splits: dict[str, SplitInfo]
    tokenizer_digest: str
    max_length: int
    eos_token_id: int
    dtype: str
    statistics: dict[str, Any]


class TokenSplit(Sequence[np.ndarray]):
    """The texts of one split, memory-mapped and read-only.

    `len(split)` is the number of texts; `split[i]`, with i an int, is a 1-D view of text i's token ids, EOS last.
    `sha256` is the manifest's.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, sha256: str) -> None:
        self._tokens, self._offsets, self.sha256 = tokens, offsets, sha256

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"text {index} of a split of {size}")
        index %= size
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, int64, shape (len(self),)."""
        return np.diff(self._offsets)


def write_shard(
    folder: str | os.PathLike[str],
    *,
    kind: str,
    client_id: str | None,
    splits: Mapping[str, Sequence[np.ndarray]],
    tokenizer_digest: str,
    max_length: int,
    eos_token_id: int,
    vocab_size: int,
    statistics: Mapping[str, Any],
) -> ShardInfo:
    """Write one shard, replacing one of that name.

    Args:
      folder: the shard's folder; its parent is made when missing.
      kind: "client" or "test".
      client_id: the client that owns the rows; None for kind "test".
      splits: name of a split -> token ids of each text, 1-D integers, EOS last.
      tokenizer_digest, max_length, eos_token_id, vocab_size: as in TokenizerInfo.
      statistics: JSON values for people, kept in the manifest.

    Raises:
      LocalProtocolError: a text does not end with EOS, is longer than max_length or holds an id
        outside the vocabulary.
      StorageError: the folder cannot be written.
    """
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    with replacing_folder(Path(folder)) as temporary:
        infos = {}
        for name, texts in splits.items():
            lengths = np.array([len(text) for text in texts], np.int64)
            tokens = np.concatenate(texts) if len(texts) else np.zeros(0, np.int64)
            _require_well_formed(f"{client_id or kind}/{name}", tokens, lengths, max_length, eos_token_id, vocab_size)
            infos[name] = _write_split(temporary, name, tokens.astype(_little_endian(dtype)), lengths)
        info = ShardInfo(
            format=SHARD_FORMAT,
            kind=kind,
            client_id=client_id,
            splits=infos,
            tokenizer_digest=tokenizer_digest,
            max_length=max_length,
            eos_token_id=eos_token_id,
            dtype=dtype,
            statistics=dict(statistics),
        )
        text = json.dumps(asdict(info), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_bytes(temporary / MANIFEST, f"{text}\n".encode())
    return info


def read_info(folder: str | os.PathLike[str]) -> ShardInfo:
    """Read a shard's manifest and check that its files are there at their full size.

    Raises:
      DataError: the folder is no shard, is damaged, or was written in another format.
    """
    folder = Path(folder)
    try:
        raw = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: not a data shard (no {MANIFEST}); `fedmq data partition` makes shards") from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != SHARD_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise DataError(f"{folder}: shard format {found}, this fedmq reads {SHARD_FORMAT}: make the shards again")
    try:
        info = ShardInfo(**raw | {"splits": {name: SplitInfo(**split) for name, split in raw["splits"].items()}})
        for name, split in info.splits.items():
            nbytes = (folder / f"{name}.tokens").stat().st_size
            if nbytes != split.num_tokens * np.dtype(info.dtype).itemsize:
                raise _damaged(folder, f"{name}.tokens has {nbytes} bytes for {split.num_tokens} {info.dtype} tokens")
    except (KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise _damaged(folder, f"{MANIFEST} and the files do not fit: {error}") from error
    return info


def open_split(folder: str | os.PathLike[str], split: str) -> TokenSplit:
    """Memory-map one split, after comparing its bytes with the manifest's SHA-256.

    Raises:
      DataError: not a shard, no such split, or damaged.
    """
    folder = Path(folder)
    info = read_info(folder)
    if split not in info.splits:
        raise DataError(f"{folder}: no split {split!r}; this {info.kind} shard has {', '.join(sorted(info.splits))}")
    expected = info.splits[split]
    try:
        offsets = np.load(folder / f"{split}.offsets.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{split}.offsets.npy cannot be read: {error}") from error
    dtype = _little_endian(info.dtype)
    # An empty file cannot be mapped.
    mapped = np.memmap(folder / f"{split}.tokens", dtype, "r") if expected.num_tokens else np.zeros(0, dtype)
    # A plain view: slicing np.memmap itself costs ten times more per text.
    tokens = mapped.view(np.ndarray)
    if _sha256(tokens, offsets) != expected.sha256:
        raise _damaged(folder, f"the bytes of split {split!r} are not those that were written")
    return TokenSplit(tokens, offsets, expected.sha256)


def read_partition(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of partition.json, after checking that every shard it names is there.

    Raises:
      DataError: not a partition, of another format, or a shard is missing or damaged.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / PARTITION).read_bytes())
        shards = [folder / "clients" / client["client_id"] for client in content["clients"]]
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a partition, or a damaged one ({PARTITION}: {error})") from error
    if found != SHARD_FORMAT:
        raise DataError(f"{folder}: shard format {found}, this fedmq reads {SHARD_FORMAT}: make the shards again")
    for shard in [*shards, folder / "test"]:
        read_info(shard)
    return content


def _write_split(folder: Path, name: str, tokens: np.ndarray, lengths: np.ndarray) -> SplitInfo:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    header = io.BytesIO()
    np.save(header, offsets, allow_pickle=False)
    write_bytes(folder / f"{name}.offsets.npy", header.getvalue())
    write_bytes(folder / f"{name}.tokens", tokens.tobytes())
    return SplitInfo(num_examples=len(lengths), num_tokens=len(tokens), sha256=_sha256(tokens, offsets))


def _require_well_formed(
    where: str, tokens: np.ndarray, lengths: np.ndarray, max_length: int, eos_token_id: int, vocab_size: int
) -> None:
    if not len(lengths):
        return
    if lengths.min() < 1 or lengths.max() > max_length:
        raise LocalProtocolError(
            f"{where}: texts of {lengths.min()} to {lengths.max()} tokens, expected 1 to {max_length}"
        )
    if (tokens[np.cumsum(lengths) - 1] != eos_token_id).any():
        raise LocalProtocolError(f"{where}: a text does not end with EOS ({eos_token_id})")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise LocalProtocolError(f"{where}: token ids {tokens.min()} to {tokens.max()}, expected 0 to {vocab_size - 1}")


def _sha256(tokens: np.ndarray, offsets: np.ndarray) -> str:
    sha = hashlib.sha256(tokens.data)
    sha.update(offsets.data)
    return sha.hexdigest()


def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"{folder}: damaged data shard, make it again ({what})")
