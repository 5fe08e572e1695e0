"""From a config's CSV to tokenised shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmq.config import ExperimentConfig, resolve_dataset_path
from fedmq.errors import ConfigError
from fedmq.protocol.fields import MAX_CLIENTS_PER_WORKER


def partition_data(config: ExperimentConfig, out_dir: Path) -> dict[str, Any]:
    """Read, split, deal and tokenise the config's data into `out_dir`; returns the statistics.

    Needs pandas and the tokenizer, so it runs in a process of its own during `fedmq run`.
    """
    clients = [f"client_{k}" for k in range(config.federated.num_clients)]
    if unknown := sorted(config.lora.rank_per_client.keys() - clients):
        known = f"its clients are client_0 to {clients[-1]}"
        raise ConfigError(f"lora.rank_per_client: this partition has no {unknown[0]}; {known}")
    if config.federated.shared() != "both" and not config.data.val_split:
        raise ConfigError(
            'federated.lora_aggregation: "fedsa" gives each client a model of its own, which is scored on texts of '
            "that client, and data.val_split 0 holds none of them back; set data.val_split to 0.1, say"
        )

    from fedmq.data.dataset import FederatedDataset
    from fedmq.data.prepare import partition_inputs, prepare_partition, reusable_partition
    from fedmq.data.shards import TokenizerInfo
    from fedmq.learning.tokenizer import load_tokenizer

    spec, federated = config.to_run_spec(), config.federated
    if federated.num_clients > MAX_CLIENTS_PER_WORKER:
        raise ConfigError(
            f"federated.num_clients: {federated.num_clients} shards on one host are more than a worker can host "
            f"({MAX_CLIENTS_PER_WORKER})"
        )
    path = resolve_dataset_path(config.data.dataset_path)
    tokenizer = load_tokenizer(config.model.model_name, config.model.cache_dir)
    info = TokenizerInfo(tokenizer.digest, tokenizer.eos_token_id, tokenizer.vocab_size, config.model.max_length)
    method = (federated.data_distribution, federated.num_clients, federated.min_samples_per_client)
    options: dict[str, Any] = dict(federated.distribution_options)
    inputs = partition_inputs(path, spec.data, config.seed, *method, options, info)
    existing = reusable_partition(out_dir, inputs)
    if existing is not None:
        return existing
    dataset = FederatedDataset(path, spec.data, config.seed)

    def encode(texts: list[str]) -> list[Any]:
        return tokenizer.encode(texts, None)

    return prepare_partition(dataset, dataset.partition(*method, **options), encode, info, out_dir, inputs=inputs)
