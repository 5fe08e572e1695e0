"""From rows to shards: tokenise once, write what the workers of a run (or one owner) will map."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.atomic import replacing_folder, write_json
from fedmq.data.dataset import ClientRows, Encode, FederatedDataset
from fedmq.data.reading import require_file
from fedmq.data.shards import (
    PARTITION,
    SHARD_FORMAT,
    ShardInfo,
    TokenizerInfo,
    read_partition,
    write_shard,
)
from fedmq.errors import DataError, LocalProtocolError
from fedmq.recipe import DataSpec

ENCODE_BATCH = 1_000


def partition_inputs(
    csv_path: str | os.PathLike[str],
    data: DataSpec,
    seed: int,
    method: str,
    num_clients: int,
    min_samples_per_client: int,
    options: Mapping[str, float | str],
    tokenizer: TokenizerInfo,
) -> str:
    """SHA-256, in hex, over everything that decides the bytes of a partition, the CSV's own bytes included.

    It needs no parsing (about 1 s for 500 MB), so a resumed run finds its shards without reading rows.
    """
    path = Path(csv_path)
    require_file(path)
    with open(path, "rb") as file:
        csv_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    partition = {
        "method": method,
        "num_clients": num_clients,
        "min_samples_per_client": min_samples_per_client,
        "options": dict(options),
    }
    inputs = [SHARD_FORMAT, csv_sha256, asdict(data), seed, partition, tokenizer._asdict()]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def prepare_partition(
    dataset: FederatedDataset,
    clients: Sequence[ClientRows],
    encode: Encode,
    tokenizer: TokenizerInfo,
    out_dir: str | os.PathLike[str],
    *,
    inputs: str,
) -> dict[str, Any]:
    """Write OUT/clients/<client_id>/, OUT/test/ and OUT/partition.json, all at once; or find them there already.

    A valid partition with the same `inputs` is left as it is. One with other inputs, or a damaged
    one, is replaced; a folder that holds anything else is refused.

    Args:
      dataset: the rows.
      clients: from `dataset.partition`.
      encode: tokenises a list of texts, whole, EOS last.
      tokenizer: describes what `encode` gives.
      out_dir: the folder to make.
      inputs: from `partition_inputs`.

    Returns:
      The content of partition.json: format, inputs, the statistics of `FederatedDataset.describe`
      with `tokens`, `val_tokens` and `truncated` (texts cut to max_length) added per client, `truncated` of all
      splits, and test: {rows, tokens}.

    Raises:
      DataError: `out_dir` holds something else, or the test split was to have rows and has none.
    """
    out = Path(out_dir)
    existing = reusable_partition(out, inputs)
    if existing is not None:
        return existing
    _require_replaceable(out)
    statistics = dataset.describe(clients)
    if dataset.data.test_split > 0 and not statistics["splits"]["test"]:
        raise DataError(
            f"{dataset.path}: {statistics['rows_kept']} rows kept, none for the test split "
            f"(data.test_split {dataset.data.test_split}): give more data or raise data.test_split"
        )
    with replacing_folder(out) as temporary:
        statistics["truncated"] = 0
        for client, row in zip(clients, statistics["clients"], strict=True):
            shares = {"train": client.train, "val": client.val}
            splits, truncated = _tokenise({n: dataset.texts(n, rows) for n, rows in shares.items()}, encode, tokenizer)
            row["truncated"] = truncated
            statistics["truncated"] += truncated
            info = write_part(
                temporary / "clients" / client.client_id, "client", client.client_id, splits, tokenizer, row
            )
            row["tokens"] = info.splits["train"].num_tokens
            row["val_tokens"] = info.splits["val"].num_tokens
        splits, truncated = _tokenise({"test": dataset.texts("test")}, encode, tokenizer)
        statistics["truncated"] += truncated
        test = write_part(temporary / "test", "test", None, splits, tokenizer, {}).splits["test"]
        statistics["test"] = {"rows": test.num_examples, "tokens": test.num_tokens}
        result = {"format": SHARD_FORMAT, "inputs": inputs, **statistics}
        write_json(temporary / PARTITION, result)
    return result


def reusable_partition(folder: str | os.PathLike[str], inputs: str) -> dict[str, Any] | None:
    """The content of partition.json if the folder is a whole partition made from `inputs`, else None."""
    try:
        content = read_partition(folder)
    except DataError:
        # Shards are derived data: what cannot be read is made again.
        return None
    return content if content.get("inputs") == inputs else None


def prepare_owner(
    csv_path: str | os.PathLike[str],
    client_id: str,
    data: DataSpec,
    seed: int,
    encode: Encode,
    tokenizer: TokenizerInfo,
    folder: str | os.PathLike[str],
) -> ShardInfo:
    """Make one client shard, with train, val and the owner's own test split, from the owner's CSV.

    The file needs the text column, and `inbound` when filter_inbound_only is set; author statistics
    are kept only where it has authors.

    Raises:
      DataError: as FederatedDataset.
    """
    dataset = FederatedDataset(csv_path, data, seed)
    described = dataset.describe()
    statistics = {key: described[key] for key in ("rows_read", "dropped", "rows_kept", "authors")}
    texts = {name: dataset.texts(name) for name in ("train", "val", "test")}
    splits, statistics["truncated"] = _tokenise(texts, encode, tokenizer)
    return write_part(Path(folder), "client", client_id, splits, tokenizer, statistics)


def _tokenise(
    splits: dict[str, list[str]], encode: Encode, tokenizer: TokenizerInfo
) -> tuple[dict[str, list[np.ndarray]], int]:
    """Token ids of each split's texts, cut to max_length with the EOS last, and how many texts were cut."""
    longest, eos, truncated = tokenizer.max_length, tokenizer.eos_token_id, 0
    tokens: dict[str, list[np.ndarray]] = {}
    for name, texts in splits.items():
        tokens[name] = []
        for start in range(0, len(texts), ENCODE_BATCH):
            for ids in encode(texts[start : start + ENCODE_BATCH]):
                # int32: half the memory of the usual int64, while write_shard can still see an id out of range.
                kept = np.array(ids[:longest], np.int32)
                if len(ids) > longest:
                    kept[-1], truncated = eos, truncated + 1
                tokens[name].append(kept)
        if len(tokens[name]) != len(texts):
            raise LocalProtocolError(f"encode gave {len(tokens[name])} arrays for {len(texts)} texts")
    return tokens, truncated


def write_part(
    folder: Path,
    kind: str,
    client_id: str | None,
    splits: dict[str, list[np.ndarray]],
    tokenizer: TokenizerInfo,
    statistics: dict[str, Any],
) -> ShardInfo:
    """Write a shard that was tokenised by this tokenizer; the arguments are those of `write_shard`."""
    return write_shard(
        folder,
        kind=kind,
        client_id=client_id,
        splits=splits,
        tokenizer_digest=tokenizer.digest,
        max_length=tokenizer.max_length,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=tokenizer.vocab_size,
        statistics=statistics,
    )


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder for the shards: name another")
    entries = {entry.name for entry in folder.iterdir()}
    if entries and (PARTITION not in entries or entries - {PARTITION, "clients", "test"}):
        raise DataError(f"{folder}: holds files that are no partition of fedmq: name an empty or a new folder")
