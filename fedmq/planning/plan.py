"""The plan of a run: clients, steps, targets, bytes, memory and time."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from fedmq import build
from fedmq.config import ExperimentConfig
from fedmq.data.shards import read_info
from fedmq.planning.calibration import Calibration, calibrate
from fedmq.planning.drawing import drawn_groups, makespan, mean, training_of
from fedmq.planning.sample import keep_a_few
from fedmq.planning.sizes import Sizes, measure_sizes, turn
from fedmq.protocol.grouping import Size
from fedmq.protocol.messages import HostedClient, Ready
from fedmq.protocol.trainer_link import Setup, Source
from fedmq.runtime.admission import Admission
from fedmq.runtime.local import default_workers, num_cores, num_cuda_devices, run_child
from fedmq.runtime.server import FederatedServer
from fedmq.storage.run_folder import open_run

#: Trainers that are measured at once: more would not tell more.
_MAX_TRAINERS = 4
#: Of a round beside training and aggregation, and of a run before and after: messages, durable writes, processes.
_ROUND_S, _ENDS_S = 0.3, 2.0


class _Client(NamedTuple):
    """Of a client's shard: what it trains on, and the targets that are held out of it."""

    size: Size
    held_out: int
    val: int


def make_plan(config: ExperimentConfig, workers: int | None = None) -> dict[str, Any]:
    """The plan, as one JSON-able object. Nothing is left behind, and nothing written to output_dir.

    Args:
      config: of the run.
      workers: local worker processes; None takes the config's, or what the run would start.

    Raises:
      ConfigError, DataError, ModelError: as the run would.
      RunError: a training failed.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedmq-plan-") as folder:
        places = [f"output_dir={json.dumps(folder)}", f"log_dir={json.dumps(folder)}"]
        own = config.with_overrides(places)
        run = open_run(Path(folder) / "run", json.dumps(own.to_dict()), "{}", resume=False, overwrite=False)
        try:
            found = _plan(own, build.server(own, Path(folder) / "run", run.journal), Path(folder), workers)
        finally:
            run.journal.close()
            run.lock.release()
    return {"output_dir": config.output_dir} | found | {"planned_in_s": time.monotonic() - started}


def _plan(config: ExperimentConfig, server: FederatedServer, folder: Path, workers: int | None) -> dict[str, Any]:
    federated, training, policy = config.federated, config.training, build.round_policy(config)
    count = workers or federated.num_workers or default_workers(config.device, federated.clients_per_round)
    data, started = folder / "data", time.monotonic()
    arguments = ["data", "partition", str(folder / "run" / "config.json"), "--out", str(data), "--json"]
    statistics = json.loads(run_child(arguments))
    partition_s = time.monotonic() - started
    clients = {c["client_id"]: _client(config, data, c["client_id"]) for c in statistics["clients"]}
    test = max(0, statistics["test"]["tokens"] - statistics["test"]["rows"])
    keep_a_few(data / "test")
    sizes = {name: client.size for name, client in clients.items()}
    _introduce(server, sizes, federated.shared())
    rounds = drawn_groups(server.select, policy, sizes)
    on_gpu = config.device.startswith("cuda") and num_cuda_devices() > 0
    groups = _measured(rounds, sizes, 1 if on_gpu else min(count, _MAX_TRAINERS))
    setup = Setup(
        spec=config.to_run_spec(),
        sources=(Source(str(data), None),),
        device=config.device,
        model=None,
        cache_dir=config.model.cache_dir,
        work_dir=str(folder),
        log_dir=None,
        state_dir=str(folder),
        personal_dir=str(folder / "personal"),
    )
    calibrated = calibrate(
        setup,
        groups,
        server.aggregator.trained(1),
        {name: server.uploads.part(name, 1) for name in clients},
        training.num_threads or max(1, num_cores() // count),
        training.batch_size * training.gradient_accumulation_steps,
    )
    wire = measure_sizes(server, calibrated.adapter, calibrated.update, calibrated.client, list(clients), policy.quorum)
    scored = [test] if calibrated.loaded.evaluates_test else [client.held_out for client in clients.values()]
    trainings = {name: training_of(size, config.to_run_spec().training) for name, size in sizes.items()}
    drawn = [[client for group in round for client in group] for round in rounds]
    loads = mean(min(count, len(groups)) for groups in rounds)
    seconds = _round_s(config, clients, rounds, calibrated, wire, scored, count)
    prepared = max(partition_s, calibrated.load_s) + min(partition_s, calibrated.load_s) / 2
    last = sum(scored) * calibrated.score_per_token_s
    last += calibrated.per_generated_s * config.generation.max_new_tokens
    num_rounds = federated.num_rounds
    # Of a long run, the rounds that were drawn stand for all.
    sent = [sum(wire.up[turn(r)][client] for client in drawn[(r - 1) % len(drawn)]) for r in range(1, num_rounds + 1)]
    loaded = [loads * wire.down_after[turn(r)] + wire.down_scored for r in range(1, num_rounds)]
    bytes_down = round(min(1, num_rounds) * loads * wire.down_first + sum(loaded))
    own_nbytes = _peak_nbytes()
    return {
        "workers": count,
        "device": calibrated.loaded.device,
        "num_parameters": calibrated.loaded.num_parameters,
        "num_trainable": calibrated.loaded.num_trainable,
        "clients": [
            {
                "client_id": name,
                "num_examples": client.size.num_examples,
                "steps": trainings[name].steps,
                "num_tokens": trainings[name].num_tokens,
                "bytes_up": wire.up[1][name],
            }
            for name, client in clients.items()
        ],
        "round": {
            "clients": mean(len(round) for round in drawn),
            "num_examples": mean(sum(sizes[client].num_examples for client in round) for round in drawn),
            "steps": mean(sum(trainings[client].steps for client in round) for round in drawn),
            "num_tokens": mean(sum(trainings[client].num_tokens for client in round) for round in drawn),
            "bytes_up": round(mean(sent)),
            "bytes_down": round(mean(loaded) if loaded else loads * wire.down_first),
            "bytes_down_first": round(loads * wire.down_first),
            "seconds": seconds,
        },
        "run": {
            "rounds": num_rounds,
            "num_tokens": num_rounds * mean(sum(trainings[client].num_tokens for client in round) for round in drawn),
            "bytes_up": sum(sent),
            "bytes_down": bytes_down,
            "seconds": prepared + num_rounds * seconds + last + _ENDS_S,
            "prepare_s": prepared,
        },
        "memory": {
            # An agent holds about what a coordinator holds; both import what this process did.
            "worker": None if calibrated.trainer_nbytes is None else calibrated.trainer_nbytes + own_nbytes,
            "coordinator": own_nbytes,
            "gpu": None,
        },
        "calibration": {
            "trainers": len(groups),
            "clients_together": len(groups[0]),
            "steps": calibrated.steps,
            "seconds": calibrated.seconds,
            "tokens_per_s": 1 / calibrated.per_token_s if calibrated.per_token_s else None,
        },
    }


def _round_s(
    config: ExperimentConfig,
    clients: dict[str, _Client],
    rounds: list[list[tuple[str, ...]]],
    measured: Calibration,
    wire: Sizes,
    scored: list[int],
    workers: int,
) -> float:
    """Of a round on average: trainings, and evaluation and texts of the version before, on that many workers."""
    recipe, async_width = config.to_run_spec().training, config.federated.clients_per_round
    width = min(workers, async_width) if config.federated.mode == "async" else workers

    def training_s(group: tuple[str, ...]) -> float:
        found = [training_of(clients[client].size, recipe) for client in group]
        looked = sum(t.steps // recipe.eval_steps * clients[client].val for t, client in zip(found, group, strict=True))
        trained = sum(t.num_tokens for t in found) * measured.per_token_s
        return measured.per_training_s + trained + looked * measured.score_per_token_s

    scores = [tokens * measured.score_per_token_s for tokens in scored]
    texts_s = measured.per_generated_s * config.generation.max_new_tokens / config.generation.every
    spans = [makespan([*map(training_s, round), *scores, texts_s], width) for round in rounds]
    return mean(spans) + wire.aggregate_s + _ROUND_S


def _client(config: ExperimentConfig, data: Path, name: str) -> _Client:
    splits = read_info(data / "clients" / name).splits
    train, limit = splits["train"], config.training.max_samples_per_client
    num_examples = train.num_examples if limit is None else min(limit, train.num_examples)
    num_tokens = round(train.num_tokens * num_examples / max(1, train.num_examples))
    val = splits.get("val")
    held_out = splits.get("test", val)
    targets = [0 if split is None else max(0, split.num_tokens - split.num_examples) for split in (held_out, val)]
    return _Client(Size(num_examples, num_tokens), *targets)


def _introduce(server: FederatedServer, sizes: dict[str, Size], shared: str) -> None:
    """A selection is told what workers announced."""
    hosted = tuple(HostedClient(name, *size, 1, "0" * 64) for name, size in sizes.items())
    ready = Ready(hosted, shared == "both", "0" * 64, 1, 1, "", (), ())
    Admission(server.journal, frozenset(sizes), shared).check("worker_0", ready)


def _measured(rounds: list[list[tuple[str, ...]]], sizes: dict[str, Size], trainers: int) -> list[tuple[str, ...]]:
    """For each trainer a group that is as wide as the widest of a round, those with many texts first."""
    names = sorted(sizes, key=lambda client: -sizes[client].num_examples)
    widest = max((len(group) for round in rounds for group in round), default=1)
    fitting = [tuple(names[k : k + widest]) for k in range(0, len(names) - widest + 1, widest)]
    return [fitting[k % len(fitting)] for k in range(trainers)]


def _peak_nbytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
