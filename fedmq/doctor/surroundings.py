"""Checks of what a run is given: an address, keys, a base model, data."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmq.config import ExperimentConfig, resolve_dataset_path
from fedmq.doctor.check import Check

_HUB = ("huggingface.co", 443)
_HUB_TIMEOUT_S = 3.0


def network(bind: str, keys: Path | None) -> Iterator[Check]:
    """Whether a coordinator can listen there: it is tried."""
    from fedmq.transport.addresses import parse_address, require_secure
    from fedmq.transport.listening import listen

    require_secure(bind, keys is not None)
    listening = listen(bind)
    try:
        port, data_port = parse_address(listening.address)[1], listening.data_port
        asked = parse_address(bind)[1]
    finally:
        listening.close()
    if not asked:
        yield Check("network", "ok", f"can listen on {bind}")
    elif data_port == port + 1:
        yield Check("network", "ok", f"{bind} is free, and so is port {data_port} for the data plane")
    else:
        advice = f"let the ports of this host through a firewall, or free port {port + 1}"
        yield Check("network", "warning", f"{bind} is free, port {port + 1} is not: data would take any port", advice)


def coordinator_keys(folder: Path) -> Iterator[Check]:
    """The coordinator's pair, and who may join."""
    from fedmq.transport.allowed import allowed
    from fedmq.transport.keys import coordinator_pair, fingerprint

    pair = coordinator_pair(folder)
    names = [key.name for key in allowed(folder)]
    own = f"{folder} has the pair {pair.public.name} ({fingerprint(pair.public.z85)})"
    if names:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        yield Check("keys", "ok", f"{own}; may join: {shown}. Keys do not expire; `fedmq keys revoke` ends one")
    else:
        yield Check("keys", "warning", f"{own}; nobody may join", f"`fedmq keys allow NAME.pub --dir {folder}`")


def worker_key(path: Path) -> Iterator[Check]:
    """A worker's secret key."""
    from fedmq.transport.keys import fingerprint, read_pair

    pair = read_pair(path)
    yield Check("key", "ok", f"{path}: worker {pair.public.name} ({fingerprint(pair.public.z85)}), yours alone")


def server_key(path: Path) -> Iterator[Check]:
    """The public key of the coordinator that a worker wants to talk to."""
    from fedmq.transport.keys import fingerprint, read_public

    public = read_public(path)
    yield Check("server", "ok", f"{path}: {public.name} ({fingerprint(public.z85)})")


def no_keys() -> Iterator[Check]:
    """Nothing was given."""
    yield Check("keys", "ok", "none given; a run on this machine needs none (--keys, --key, --server-key)")


def trackers(config: ExperimentConfig) -> Iterator[Check]:
    """Whether the libraries of section `tracking` are installed; of no tracker nothing is said."""
    from fedmq.tracking.backends import require

    require(config.tracking.backends)
    if config.tracking.backends:
        yield Check("trackers", "ok", f"{', '.join(config.tracking.backends)}: installed")


def model(config: ExperimentConfig, probed: dict[str, Any]) -> Iterator[Check]:
    """Whether the base is here, and loads."""
    name, folder = config.model.model_name, probed.get("folder")
    reason = probed.get("model_error")
    if "digest" in probed:
        share = f"{probed['num_trainable']:,} of {probed['num_parameters']:,} parameters trained"
        yield Check("model", "ok", f"{name} in {folder}, {probed['engine']}, {share}, SHA-256 {probed['digest'][:12]}")
    elif reason is not None and folder is None and "Hugging Face cache" in reason:
        if _hub_answers():
            advice = f"the run fetches it from huggingface.co first; `hf download {name}` does so now"
            yield Check("model", "warning", f"{name} is not on this host, as far as is known", advice)
        else:
            yield Check("model", "failed", reason, exit_code=2)
    elif reason is not None:
        yield Check("model", "failed", reason, exit_code=probed["exit_code"])
    elif "device" in probed:
        yield Check("model", "failed", f"{name}: the process that loaded it {probed.get('ended')}", "more memory?")
    else:
        yield Check("model", "warning", f"{name} was not looked at, for torch or the device failed")


def data(config: ExperimentConfig) -> Iterator[Check]:
    """The CSV, its columns, its rows, and whether they make the clients."""
    from fedmq.data.dataset import FederatedDataset

    federated = config.federated
    path = resolve_dataset_path(config.data.dataset_path)
    dataset = FederatedDataset(path, config.to_run_spec().data, config.seed)
    options: dict[str, Any] = dict(federated.distribution_options)
    clients = dataset.partition(
        federated.data_distribution, federated.num_clients, federated.min_samples_per_client, **options
    )
    found = dataset.describe(clients)
    sizes = [client["rows"] for client in found["clients"]]
    rows = f"{found['rows_read']} rows read, {found['rows_kept']} kept"
    text = f"{path}: column {config.data.text_column!r}, {rows}; {len(sizes)} clients of {min(sizes)} to {max(sizes)}"
    if not found["splits"]["test"]:
        yield Check("data", "failed", f"{text}; no row for the test split", "raise data.test_split", exit_code=2)
    elif max(sizes) < config.training.batch_size:
        yield Check("data", "warning", text, "no client fills a batch (training.batch_size)")
    else:
        yield Check("data", "ok", text)


def _hub_answers() -> bool:
    try:
        socket.create_connection(_HUB, _HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True
