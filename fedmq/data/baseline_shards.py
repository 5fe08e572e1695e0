"""Shards for baselines, made of a partition: for one who trains on the rows of all, and for clients scored on one test.

What stays the same is a hard link where the file system has them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.atomic import replacing_folder, write_json
from fedmq.data.prepare import write_part
from fedmq.data.shards import (
    MANIFEST,
    PARTITION,
    TokenizerInfo,
    TokenSplit,
    open_split,
    read_info,
    read_partition,
)

#: client -> its training texts -> the positions of those that count
Used = Callable[[str, TokenSplit], np.ndarray]


def with_test_split(partition: Path, inputs: str) -> dict[str, Any]:
    """Give every client of a partition the test shard's texts as a test split of its own; returns partition.json."""
    content = read_partition(partition) | {"inputs": inputs}
    test = read_info(partition / "test").splits["test"]
    with replacing_folder(partition) as temporary:
        shutil.copytree(partition, temporary, copy_function=_link, dirs_exist_ok=True)
        for client in content["clients"]:
            folder = temporary / "clients" / client["client_id"]
            for suffix in ("tokens", "offsets.npy"):
                _link(temporary / "test" / f"test.{suffix}", folder / f"test.{suffix}")
            info = read_info(folder)
            (folder / MANIFEST).unlink()
            manifest = asdict(replace(info, splits=info.splits | {"test": test}))
            write_json(folder / MANIFEST, dict(sorted(manifest.items())))
        (temporary / PARTITION).unlink()
        write_json(temporary / PARTITION, content)
    return content


def pooled(
    partition: Path,
    tokenizer: TokenizerInfo,
    used: Used,
    generator: np.random.Generator,
    *,
    num_slices: int,
    clients_per_round: int,
    own_texts: bool,
    inputs: str,
) -> dict[str, Any]:
    """Deal the training texts of all clients into slices, which take the place of the clients; returns partition.json.

    The texts, shuffled once, are a ring. Slice i begins where slice i - 1 ends, and has as many texts as
    `clients_per_round` clients have on average: after clients / gcd(clients, clients_per_round) slices the ring is gone
    through a whole number of times, so that all texts count the same.

    Args:
      partition: replaced.
      tokenizer: that it was made with.
      used: which texts of a client are trained on.
      generator: shuffles.
      num_slices: to be made, named client_0 and so on.
      clients_per_round: of the run.
      own_texts: each client's val split becomes the test split of the slice of that name, and there is no test shard.
      inputs: see `fedmq.data.prepare.partition_inputs`.
    """
    content = read_partition(partition)
    names = [client["client_id"] for client in content["clients"]]
    texts: list[np.ndarray] = []
    for name in names:
        split = open_split(partition / "clients" / name, "train")
        texts += [split[int(i)] for i in used(name, split)]
    size = max(1, round(len(texts) * clients_per_round / len(names)))
    ring = generator.permutation(len(texts))
    rows = []
    with replacing_folder(partition) as temporary:
        for k in range(num_slices):
            name = f"client_{k}"
            splits = {"train": [texts[i] for i in ring[(k * size + np.arange(size)) % len(ring)]]}
            if own_texts:
                splits["test"] = list(open_split(partition / "clients" / name, "val"))
            info = write_part(temporary / "clients" / name, "client", name, splits, tokenizer, {})
            rows.append({"client_id": name, "rows": size, "tokens": info.splits["train"].num_tokens, "authors": None})
        if own_texts:
            write_part(temporary / "test", "test", None, {"test": []}, tokenizer, {})
        else:
            shutil.copytree(partition / "test", temporary / "test", copy_function=_link)
        kept = {name: value for name, value in content.items() if name != "label_tv"}
        test = {"rows": 0, "tokens": 0} if own_texts else content["test"]
        result = kept | {"inputs": inputs, "clients": rows, "test": test}
        write_json(temporary / PARTITION, result)
    return result


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
