"""What a worker was given to train and evaluate: shards on disk, or an owner's CSV that becomes one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from fedmq.data.shards import (
    MANIFEST,
    PARTITION,
    ShardInfo,
    TokenizerInfo,
    TokenSplit,
    open_split,
    read_info,
    read_partition,
)
from fedmq.errors import DataError
from fedmq.learning.batching import lengths, usable_texts
from fedmq.learning.client import FederatedClient
from fedmq.learning.evaluate import EvaluationResult, evaluate
from fedmq.learning.models import LanguageModel
from fedmq.protocol.messages import HostedClient
from fedmq.protocol.trainer_link import Source
from fedmq.recipe import DataSpec, RunSpec

log = logging.getLogger("fedmq.trainer")


class Hosted(NamedTuple):
    """The clients of one worker, all on one model, and the test shard if it has that and there is a model of all.

    `held_out`: by client, the split that its own model is scored on.
    """

    clients: dict[str, FederatedClient]
    announced: tuple[HostedClient, ...]
    test: TokenSplit | None
    held_out: dict[str, str]


def host(
    sources: Iterable[Source],
    model: LanguageModel,
    run: RunSpec,
    work_dir: Path,
    log_dir: Path | None,
) -> Hosted:
    """Open everything that the worker was given.

    Raises:
      DataError: a source is neither a shard, a folder of shards nor a CSV; or it was made for another base; or a
        client has no held-out text, where its own model is what there is to score.
    """
    tokenizer = TokenizerInfo(
        model.tokenizer.digest, model.tokenizer.eos_token_id, model.tokenizer.vocab_size, model.max_length
    )
    clients: dict[str, FederatedClient] = {}
    held_out: dict[str, str] = {}
    announced: dict[str, HostedClient] = {}
    test: TokenSplit | None = None
    for folder in (f for source in sources for f in _shards(source, model, run.data, run.seed, tokenizer, work_dir)):
        info = read_info(folder)
        _require_same_tokenizer(folder, info, tokenizer)
        splits = {name: open_split(folder, name) for name, split in info.splits.items() if split.num_examples}
        if info.client_id is None:
            if run.training.shared != "both" or not splits:
                log.info("%s is not used: it is empty, or there is no model of all clients to score on it", folder)
                continue
            if test is not None:
                raise DataError(f"{folder}: a second test shard; give one --data that holds one")
            test = splits["test"]
            continue
        name = info.client_id
        if name in clients:
            raise DataError(f"{folder}: client {name} was given twice; give each client one --data")
        if "train" not in splits:
            raise DataError(f"{folder}: client {name} has no training text")
        client = FederatedClient(
            name, model, splits["train"], splits.get("val"), splits.get("test"), seed=run.seed, log_dir=log_dir
        )
        clients[name] = client
        sizes = lengths(splits["train"])
        used = usable_texts(sizes, run.training.max_samples_per_client, client.subset_seed)
        if not len(used):
            raise DataError(f"{folder}: client {name} has no text of two tokens or more to train on")
        held_out[name] = "test"
        if run.training.shared != "both":
            held_out[name] = _own_held_out(folder, name, splits)
        scored = info.splits.get(held_out[name])
        announced[name] = HostedClient(
            client=name,
            num_examples=len(used),
            num_tokens=int(sizes[used].sum()),
            num_held_out=scored.num_examples if scored else 0,
            data_digest=info.splits["train"].sha256,
        )
    return Hosted(clients, tuple(announced[name] for name in sorted(announced)), test, held_out)


def evaluate_unit(
    hosted: Hosted, model: LanguageModel, unit: str, batch_size: int, on_step: Callable[[int, int], None]
) -> EvaluationResult:
    """Score the model's adapter on the test shard, or on a client's own held-out split."""
    if unit != "test":
        return hosted.clients[unit].evaluate(hosted.held_out[unit], batch_size=batch_size, on_step=on_step)
    if hosted.test is None:
        raise DataError("this worker was not given the test shard")
    return evaluate(model, hosted.test, batch_size=batch_size, on_step=on_step)


def _own_held_out(folder: Path, name: str, splits: dict[str, TokenSplit]) -> str:
    """An owner's own test split; else what a partition put aside for the client, which no training looks at."""
    for split in ("test", "val"):
        if split in splits and (splits[split].lengths >= 2).any():
            return split
    raise DataError(
        f'{folder}: client {name} has no held-out text, on which federated.lora_aggregation "fedsa" and "local" score '
        "each client's own model: raise data.val_split (of an owner's CSV, data.test_split) or "
        "federated.min_samples_per_client"
    )


def _shards(
    source: Source, model: LanguageModel, data: DataSpec, seed: int, tokenizer: TokenizerInfo, work_dir: Path
) -> list[Path]:
    path = Path(source.path)
    if path.is_file():
        if source.client is None:
            raise DataError(f"{path}: a CSV needs the name of its client: --data {path} --client NAME")
        # Only an owner's CSV needs pandas: with shards, a trainer starts sooner and smaller.
        from fedmq.data.prepare import prepare_owner

        folder = work_dir / "shards" / source.client

        def encode(texts: list[str]) -> list:
            return model.tokenizer.encode(texts, None)

        prepare_owner(path, source.client, data, seed, encode, tokenizer, folder)
        return [folder]
    if (path / MANIFEST).is_file():
        return [path]
    if (path / PARTITION).is_file():
        names = [client["client_id"] for client in read_partition(path)["clients"]]
        return [*(path / "clients" / name for name in names), path / "test"]
    raise DataError(
        f"{path}: expected a CSV, a shard (a folder with {MANIFEST}) or a folder that `fedmq data partition` made"
    )


def _require_same_tokenizer(folder: Path, info: ShardInfo, tokenizer: TokenizerInfo) -> None:
    if (info.tokenizer_digest, info.max_length) != (tokenizer.digest, tokenizer.max_length):
        raise DataError(
            f"{folder}: made with another tokenizer or max_length ({info.max_length}) than this run's "
            f"({tokenizer.max_length}): make it again with `fedmq data partition` and this run's config"
        )
