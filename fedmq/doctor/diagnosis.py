"""All checks, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedmq.config import ExperimentConfig
from fedmq.doctor import host, surroundings
from fedmq.doctor.check import Check, made
from fedmq.doctor.probe import probe
from fedmq.runtime.local import default_workers, num_cores

#: An adapter of each client of each round, and as much again for the newest versions and the journal.
_ADAPTER_NBYTES_PER_PARAMETER = 4


def diagnose(
    config: ExperimentConfig | None,
    folder: Path,
    *,
    workers: int | None = None,
    bind: str | None = None,
    keys: Path | None = None,
    key: Path | None = None,
    server_key: Path | None = None,
) -> Iterator[Check]:
    """Each check as it is made.

    Args:
      config: None looks at the machine alone.
      folder: of the run; it need not be there.
      workers: local worker processes; None takes the config's, or what a run would start.
      bind: tcp://HOST:PORT of a coordinator; None is that of `fedmq run`.
      keys: a coordinator's folder.
      key, server_key: a worker's files.
    """
    device = "cuda" if config is None else config.device
    yield from made("python", host.python)
    probed = probe(device, config)
    yield from made("device", lambda: host.device(None if config is None else device, probed))
    if config is None:
        local = workers or default_workers(device, num_cores())
    else:
        local = workers or config.federated.num_workers or default_workers(device, config.federated.clients_per_round)
    yield from made("cores", lambda: host.cores(local))
    yield from made("memory", lambda: host.memory(local, probed.get("peak_nbytes")))
    yield from made("disk", lambda: host.disk(folder, _left(config, probed)))
    # Workers that are started by hand are at most one for each client.
    remote = config.federated.num_clients if config is not None and bind is not None else 0
    yield from made("files", lambda: host.open_files(max(local, remote)))
    yield from made("network", lambda: surroundings.network(bind or "tcp://127.0.0.1:0", keys))
    if keys is not None:
        yield from made("keys", lambda: surroundings.coordinator_keys(keys))
    if key is not None:
        yield from made("key", lambda: surroundings.worker_key(key))
    if server_key is not None:
        yield from made("server", lambda: surroundings.server_key(server_key))
    if keys is None and key is None and server_key is None:
        yield from made("keys", surroundings.no_keys)
    if config is not None:
        if key is None and server_key is None:
            # A worker has none.
            yield from made("trackers", lambda: surroundings.trackers(config))
        yield from made("model", lambda: surroundings.model(config, probed))
        yield from made("data", lambda: surroundings.data(config))


def _left(config: ExperimentConfig | None, probed: dict[str, int]) -> int:
    """Bytes that the run leaves in its folder, the data aside; 0 where the adapter's size is not known."""
    if config is None:
        return 0
    federated = config.federated
    per_client = federated.num_rounds * federated.clients_per_round if federated.save_client_adapters else 0
    adapters = per_client + federated.num_rounds // federated.save_every + federated.clients_per_round + 3
    return adapters * _ADAPTER_NBYTES_PER_PARAMETER * int(probed.get("num_trainable", 0))
