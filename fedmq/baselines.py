"""Baselines of a run: the same, without a federation. Each is a run of other settings, in a folder of its own.

    local      nothing is shared: every client trains a model of its own, in the rounds in which the run would draw it
    central    in each round one trains that has as many rows as the clients of a round on average, of all clients' rows
    zero-shot  no round: the base is scored

So a baseline is trained by the same engine on as many texts, scored as the run is, killed, resumed and looked at like
any run.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from fedmq.config import ExperimentConfig
from fedmq.config_baseline import Kind
from fedmq.errors import ConfigError, FedmqError
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import global_metrics
from fedmq.storage.run_folder import DATABASE, differences
from fedmq.storage.salvage import read

#: In OUTPUT_DIR and LOG_DIR; a baseline is in the folder of its kind's name in it.
FOLDER = "baselines"
#: What a baseline has of the run's section `federated`; all else is the default.
_KEPT = (
    *("num_rounds", "num_workers", "start_timeout_s", "stall_timeout_s", "save_every", "save_client_adapters"),
    *("data_distribution", "distribution_options", "min_samples_per_client"),
)
_SELECTION = ("selection", "selection_options", "weighting")


def baseline_of(config: ExperimentConfig, kind: Kind) -> ExperimentConfig:
    """The config of a baseline of the run that `config` is of.

    Raises:
      ConfigError: `config` is a baseline's, or its folder holds a run of other settings.

    Example:
      >>> central = baseline_of(ExperimentConfig.from_dict({"output_dir": "nowhere"}), "central")
      >>> central.output_dir, central.federated.num_clients, central.federated.clients_per_round
      ('nowhere/baselines/central', 10, 1)
    """
    if config.baseline.kind is not None:
        raise ConfigError(f"this is the config of a baseline ({config.baseline.kind}): give that of its run")
    _require_same_run(Path(config.output_dir), config)
    values, federated, own = config.to_dict(), config.federated, config.federated.shared() != "both"
    # Of an asynchronous run, the updates that make a version.
    per_round = federated.quorum() if federated.mode == "async" else federated.clients_per_round
    values["baseline"] = {
        "kind": kind,
        "of": settings_digest(config.decisive()),
        "run_clients": federated.num_clients,
        "run_clients_per_round": per_round,
        "run_max_samples": config.training.max_samples_per_client,
        "scored_on": "own" if own else "test",
    }
    # A model that trains on alone may lead far, and there is nobody to be protected from it.
    carried: dict[str, Any] = {name: values["federated"][name] for name in _KEPT} | {"max_update_norm": None}
    if kind == "central":
        slices = federated.num_clients if own else federated.num_clients // math.gcd(federated.num_clients, per_round)
        carried |= {"num_clients": slices, "clients_per_round": 1, "selection": "round_robin"}
        # It is in the slices: a client's rows that the run leaves out are in none.
        values["training"]["max_samples_per_client"] = None
    else:
        carried |= {name: values["federated"][name] for name in _SELECTION}
        carried |= {"num_clients": federated.num_clients, "clients_per_round": per_round}
        carried["lora_aggregation"] = "local" if kind == "local" else "fedsa" if own else "fedit"
    if kind == "zero-shot":
        carried["num_rounds"] = 0
    values["federated"] = carried
    values["lora"]["rank_per_client"] = {}
    for place in ("output_dir", "log_dir"):
        values[place] = str(Path(values[place]) / FOLDER / kind)
    return ExperimentConfig.from_dict(values)


def baselines_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What is known of the baselines of a run, by kind; what cannot be read has a `reason` in place of scores.

    `same_settings` says whether it is one of the run that is in the folder now, where there is one.
    """
    run, found = _decisive(run_dir), dict[str, dict[str, Any]]()
    for database in sorted((run_dir / FOLDER).glob(f"*/{DATABASE}")):
        folder = database.parent
        try:
            one, damage = read(database, _outcome)
        except FedmqError as error:
            found[folder.name] = {"run_dir": str(folder), "reason": str(error)}
            continue
        if damage:
            found[folder.name] = {"run_dir": str(folder), "reason": damage[0]}
            continue
        of = one.pop("of")
        found[folder.name] = {"run_dir": str(folder)} | one
        found[folder.name]["same_settings"] = None if run is None else settings_digest(run) == of
    return found


def _outcome(journal: Journal) -> dict[str, Any]:
    scores, config = global_metrics(journal), json.loads(journal.require("config"))
    score = scores[max(scores)] if scores else {}
    return {
        "status": journal.require("status"),
        "committed": journal.last_committed(),
        "num_rounds": config["federated"]["num_rounds"],
        "eval_loss": score.get("eval_loss"),
        "perplexity": score.get("perplexity"),
        "of": config.get("baseline", {}).get("of"),
    }


def settings_digest(decisive: dict[str, Any]) -> str:
    """SHA-256, in hex, over the settings that decide a run's result."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _require_same_run(run_dir: Path, config: ExperimentConfig) -> None:
    """A baseline stands beside the run that it is one for."""
    run = _decisive(run_dir)
    if run is not None and (names := list(differences(run, config.decisive()))):
        raise ConfigError(
            f"{run_dir} holds a run of another config (other: {', '.join(names)}), and a baseline stands in the "
            "folder of its own run: give that run's config, or another output_dir"
        )


def _decisive(run_dir: Path) -> dict[str, Any] | None:
    """Of the run in a folder, as far as a config says them; None where there is no run, or one that had none yet."""
    if not (run_dir / DATABASE).is_file():
        return None
    journal = Journal.open(run_dir / DATABASE, read_only=True)
    try:
        text = journal.get("decisive")
    finally:
        journal.close()
    settings: dict[str, Any] | None = None if text is None else json.loads(text)
    return (
        None
        if settings is None
        else {name: value for name, value in settings.items() if name not in ("aggregator", "speeds")}
    )
