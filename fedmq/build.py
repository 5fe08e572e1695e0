"""The wiring: names to factories, one dict per extension point, and a config to running objects.

An unknown name is an error that lists the known ones; nothing falls back to a default.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fedmq import own_code
from fedmq.algorithms import aggregators, lora_aggregate, sampling, server_opt, staleness, weighting
from fedmq.algorithms import partition as partitions
from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.candidates import Sampler
from fedmq.algorithms.partition_shares import Partitioner
from fedmq.algorithms.rows import kept_in
from fedmq.algorithms.server_opt import ServerOptimizer
from fedmq.build_rules import require_base_can_grow, rule_of_method, update_limits
from fedmq.codec import delta, download, update
from fedmq.config import ExperimentConfig
from fedmq.config_federated import FederatedConfig
from fedmq.errors import ConfigError
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.messages import Shutdown
from fedmq.protocol.policy import RoundPolicy, Timers
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.links import Links
from fedmq.runtime.selection import ClientSelection, Weighting
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.uploads import Uploads
from fedmq.runtime.view import View
from fedmq.storage.journal import Journal
from fedmq.storage.spill import SpilledRows
from fedmq.transport.base import CoordinatorTransport
from fedmq.transport.gateway import GatewayCoordinatorTransport
from fedmq.transport.zeromq import ZmqCoordinatorTransport

T = TypeVar("T")

AGGREGATORS = aggregators.BY_NAME
LORA_AGGREGATORS = lora_aggregate.BY_NAME
SERVER_OPTIMIZERS = server_opt.BY_NAME
CODECS = update.BY_NAME
SAMPLERS = sampling.BY_NAME
PARTITIONERS = partitions.BY_NAME
WEIGHTINGS: Mapping[str, Weighting] = {
    "examples": weighting.by_examples,
    "tokens": weighting.by_tokens,
    "uniform": weighting.uniform,
}


def aggregator(name: str, **params: Any) -> Aggregator:
    """An aggregation rule by name; `module:attribute` is a user's own: an Aggregator, or a function that gives one.

    Example:
      >>> rule = aggregator("krum", f=2)
      >>> aggregator("fedavgg")
      Traceback (most recent call last):
      fedmq.errors.ConfigError: unknown aggregator 'fedavgg', did you mean 'fedavg'? known: bulyan, ...
    """
    if not own_code.is_reference(name):
        return _pick("aggregator", AGGREGATORS, name)(**params)
    own = own_code.load(name)
    if not isinstance(own, Aggregator):
        if not callable(own):
            raise ConfigError(f"{name}: is {own!r:.60}, expected an Aggregator or a function that gives one")
        try:
            own = own(**params)
        except Exception as error:
            raise ConfigError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    elif params:
        raise ConfigError(f"{name}: is an Aggregator, not a function that gives one, and takes no {', '.join(params)}")
    if not isinstance(own, Aggregator):
        raise ConfigError(f"{name}: gave {own!r:.60}, expected an Aggregator")
    return own


def lora_aggregator(name: str, **params: Any) -> Aggregator:
    """A rule for LoRA factors by name.

    Example:
      >>> rule = lora_aggregator("lora_fair", lam=0.1)
    """
    return _pick("lora aggregator", LORA_AGGREGATORS, name)(**params)


def server_optimizer(name: str, **params: Any) -> ServerOptimizer:
    """A server optimiser by name.

    Example:
      >>> rule = server_optimizer("nesterov", lr=0.7, momentum=0.6)
    """
    return _pick("server optimizer", SERVER_OPTIMIZERS, name)(**params)


def codec(name: str, **params: Any) -> delta.Codec:
    """A codec of deltas by name.

    Example:
      >>> rule = codec("int4", block=32)
    """
    return _pick("codec", CODECS, name)(**params)


def sampler(name: str, **params: Any) -> Sampler:
    """A rule of selection by name; `module:attribute` is a user's own (`fedmq.algorithms.candidates.Sampler`).

    Example:
      >>> rule = sampler("power_of_choice", d=6)
    """
    if not own_code.is_reference(name):
        return _pick("sampler", SAMPLERS, name)(**params)
    rule = own_code.load(name)
    if not callable(rule):
        raise ConfigError(f"{name}: is {rule!r}, expected a function of candidates and draw")
    try:
        inspect.signature(rule).bind([], None, **params)
    except TypeError as error:
        given = f" and the options {', '.join(params)}" if params else ""
        raise ConfigError(f"{name}: cannot be called with candidates, draw{given}: {error}") from None
    return functools.partial(rule, **params)


def partitioner(name: str, **params: Any) -> Partitioner:
    """A rule by which rows become shards, by name.

    Example:
      >>> rule = partitioner("dirichlet", law="per_client", alpha=0.1)
    """
    return _pick("partitioner", PARTITIONERS, name)(**params)


def server(
    config: ExperimentConfig,
    run_dir: Path,
    journal: Journal,
    own_aggregator: Aggregator | None = None,
    own_sampler: Sampler | None = None,
) -> FederatedServer:
    """The server of a run whose folder is open; own rules take the place of those that the config names."""
    federated = config.federated
    rule = _rule(config, own_aggregator)
    if reason := federated.too_few(rule.fewest, f"{rule.label()} needs"):
        raise ConfigError(reason)
    require_base_can_grow(config, rule)
    weigh = weighting.capped(_pick("weighting", WEIGHTINGS, federated.weighting), federated.max_client_examples)
    if own_sampler is not None and federated.selection != "uniform":
        raise ConfigError(f"federated.selection is {federated.selection!r} and a sampler was given: leave one out")
    drawing = own_sampler or sampler(federated.selection, **federated.selection_options)
    name = federated.selection if own_sampler is None else getattr(own_sampler, "__name__", repr(own_sampler))
    return FederatedServer(
        run_dir,
        journal,
        aggregator=kept_in(rule, lambda: SpilledRows(run_dir)),
        server_optimizer=server_optimizer(federated.server_optimizer, **federated.server_optimizer_options),
        selection=ClientSelection(journal, drawing, weigh, config.seed, name),
        weighting=weigh,
        uploads=Uploads(update.update_codec(federated.upload_spec()), rule.trained, config.lora.rank_per_client),
        download=download.download_codec(federated.download_spec()),
        discount=_buffer(federated).discount,
        limits=update_limits(config),
        num_rounds=federated.num_rounds,
        save_every=federated.save_every,
        save_client_adapters=federated.save_client_adapters and federated.shared() == "both",
    )


def _rule(config: ExperimentConfig, own: Aggregator | None) -> Aggregator:
    federated, of_method = config.federated, rule_of_method(config)
    if own is not None:
        if of_method is not None:
            raise ConfigError(
                f"federated.local_method {federated.local_method!r} averages by itself, and an aggregator was given: "
                "leave one out"
            )
        for name in ("aggregation_method", "lora_aggregation"):
            if getattr(federated, name) != FederatedConfig.model_fields[name].default:
                raise ConfigError(
                    f"federated.{name} is {getattr(federated, name)!r}, and an aggregator was given: leave one out"
                )
        return own
    if of_method is not None:
        return of_method
    if federated.lora_aggregation == "fedit":
        return aggregator(federated.aggregation_method, **federated.aggregation_options)
    drawn = {"seed": config.seed} if federated.lora_aggregation == "flora" else {}
    return lora_aggregator(federated.lora_aggregation, **drawn | federated.lora_aggregation_options)


def _buffer(federated: FederatedConfig) -> staleness.Buffer:
    options: dict[str, Any] = dict(federated.async_options)
    return staleness.fedbuff(**options)


def round_policy(config: ExperimentConfig) -> RoundPolicy:
    """What makes a round of this run. Engine "hf" gains nothing by training clients together."""
    federated, training, quorum = config.federated, config.training, config.federated.quorum()
    if federated.mode == "async":
        # Clients that are trained together begin and end together.
        return RoundPolicy(
            federated.num_rounds,
            cohort=quorum,
            quorum=quorum,
            batch_size=training.batch_size,
            concurrency=federated.clients_per_round,
            max_staleness=_buffer(federated).max_staleness,
        )
    together = 1 if training.engine == "hf" else training.clients_per_batch
    deadline_s = federated.deadline_s()
    return RoundPolicy(
        federated.num_rounds,
        federated.clients_per_round,
        quorum=quorum,
        deadline_s=None if deadline_s == "auto" else deadline_s,
        automatic_deadline=deadline_s == "auto",
        over_selection=federated.over_selection,
        clients_per_batch=together if isinstance(together, int) else None,
        batch_size=training.batch_size,
    )


def generates(config: ExperimentConfig) -> int:
    """Rounds from one generation to the next; 0 without prompts, or without a model of all clients."""
    return config.generation.every if config.generation.prompts and config.federated.shared() == "both" else 0


def transport(bind: str, keys: Path | None) -> CoordinatorTransport:
    """The coordinator's end of the network, listening; with keys, its sockets are in a process of their own.

    Args:
      bind: tcp://HOST:PORT.
      keys: folder with the coordinator's pair and the list of workers that may join; None on loopback only.
    """
    # Without keys there are only processes of this host, which could kill us in other ways.
    return ZmqCoordinatorTransport(bind) if keys is None else GatewayCoordinatorTransport(bind, keys)


def coordinator(
    config: ExperimentConfig,
    server: FederatedServer,
    transport: CoordinatorTransport,
    view: View,
    now: float,
    named: frozenset[str] = frozenset(),
    data_dir: Path | None = None,
) -> Coordinator:
    """The coordinator of a run, at the point that its journal says it has come to.

    Args:
      config: of the run.
      server: its global model and folder.
      transport: bound.
      view: who watches.
      now: monotonic seconds; the start timeout runs from here.
      named: the clients' ids where they are known; else whoever joins, from `num_clients` on.
      data_dir: shards that local workers may read.
    """
    federated = config.federated
    state = CoordinatorState(
        round_policy(config),
        Timers(start_s=federated.start_timeout_s, stall_s=federated.stall_timeout_s),
        expected=federated.num_clients,
        named=named,
        generates=generates(config),
        progress=server.progress(),
        started_at=now,
    )
    return Coordinator(state, server, transport, config.to_run_spec(), view, data_dir)


def dismiss_workers(journal: Journal, bind: str, keys: Path | None, patience_s: float) -> int:
    """Tell those workers of a run that come back that it has ended: its coordinator may have died before it could.

    Returns how many there were.

    Raises:
      ConfigError: the address or the keys cannot be used.
      RunError: the port is in use.
    """
    listening = transport(bind, keys)
    try:
        return Links(listening).dismiss(journal.workers(), Shutdown("done", "all rounds committed"), patience_s)
    finally:
        listening.close(linger_s=1.0)


def _pick(what: str, table: Mapping[str, T], name: str) -> T:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    raise ConfigError(f"unknown {what} {name!r}{hint} known: {', '.join(sorted(table))}")
