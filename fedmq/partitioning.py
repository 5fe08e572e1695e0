"""From a config's CSV to tokenised shards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedmq.config import ExperimentConfig, resolve_dataset_path
from fedmq.errors import ConfigError
from fedmq.loading import loading
from fedmq.protocol.fields import MAX_CLIENTS_PER_WORKER
from fedmq.rng import derive, derive_seed


def partition_data(config: ExperimentConfig, out_dir: Path) -> dict[str, Any]:
    """Read, split, deal and tokenise the config's data into `out_dir`; returns the statistics.

    Needs pandas and the tokenizer, so it runs in a process of its own during `fedmq run`.
    """
    clients = [f"client_{k}" for k in range(config.federated.num_clients)]
    if unknown := sorted(config.lora.rank_per_client.keys() - clients):
        known = f"its clients are client_0 to {clients[-1]}"
        raise ConfigError(f"lora.rank_per_client: this partition has no {unknown[0]}; {known}")
    baseline, own_models = config.baseline, config.federated.shared() != "both"
    if own_models and not (baseline.kind and baseline.scored_on == "test") and not config.data.val_split:
        raise ConfigError(
            f'federated.lora_aggregation: "{config.federated.lora_aggregation}" gives each client a model of its own, '
            "which is scored on texts of that client, and data.val_split 0 holds none of them back; set data.val_split "
            "to 0.1, say"
        )

    with loading():
        from fedmq.data.dataset import FederatedDataset
        from fedmq.data.prepare import partition_inputs, prepare_partition, reusable_partition
        from fedmq.data.shards import TokenizerInfo
        from fedmq.learning.tokenizer import load_tokenizer

    spec, federated = config.to_run_spec(), config.federated
    num_clients = federated.num_clients if baseline.run_clients is None else baseline.run_clients
    if num_clients > MAX_CLIENTS_PER_WORKER:
        raise ConfigError(
            f"federated.num_clients: {num_clients} shards on one host are more than a worker can host "
            f"({MAX_CLIENTS_PER_WORKER})"
        )
    path = resolve_dataset_path(config.data.dataset_path)
    with loading():  # transformers loads what it needs on the way
        tokenizer = load_tokenizer(config.model.model_name, config.model.cache_dir)
    info = TokenizerInfo(tokenizer.digest, tokenizer.eos_token_id, tokenizer.vocab_size, config.model.max_length)
    method = (federated.data_distribution, num_clients, federated.min_samples_per_client)
    options: dict[str, Any] = dict(federated.distribution_options)
    inputs = partition_inputs(path, spec.data, config.seed, *method, options, info)
    reshaped = _reshaped(config, inputs)
    existing = reusable_partition(out_dir, reshaped or inputs)
    if existing is not None:
        return existing
    dataset = FederatedDataset(path, spec.data, config.seed)

    def encode(texts: list[str]) -> list[Any]:
        return tokenizer.encode(texts, None)

    dealt = dataset.partition(*method, **options)
    statistics = prepare_partition(dataset, dealt, encode, info, out_dir, inputs=inputs)
    return statistics if reshaped is None else _reshape(config, out_dir, info, reshaped)


def _reshaped(config: ExperimentConfig, inputs: str) -> str | None:
    """The inputs of what a baseline makes of the partition of its run; None where it takes that as it is."""
    baseline = config.baseline
    if baseline.kind == "central" or (baseline.kind == "local" and baseline.scored_on == "test"):
        made = [inputs, baseline.to_shards(), config.federated.num_clients]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()
    return None


def _reshape(config: ExperimentConfig, out_dir: Path, info: Any, inputs: str) -> dict[str, Any]:
    from fedmq.data.baseline_shards import pooled, with_test_split
    from fedmq.learning.batching import lengths, usable_texts

    baseline = config.baseline
    if baseline.kind == "local":
        return with_test_split(out_dir, inputs)

    def used(client: str, texts: Any) -> Any:
        subset = derive_seed(config.seed, "subset", client=client)
        return usable_texts(lengths(texts), baseline.run_max_samples, subset)

    assert baseline.run_clients_per_round is not None
    return pooled(
        out_dir,
        info,
        used,
        derive(config.seed, "central"),
        num_slices=config.federated.num_clients,
        clients_per_round=baseline.run_clients_per_round,
        own_texts=baseline.scored_on == "own",
        inputs=inputs,
    )
