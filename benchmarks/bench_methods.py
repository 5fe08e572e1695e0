"""Every method on the same task: loss after R rounds, rounds and bytes to a target loss, aggregation bias, seconds.

    python benchmarks/bench_methods.py RESULTS [--texts CSV] [--seeds 0 1 2] [--rounds 8] [--methods NAME ...]

Eight clients of unequal kinds (`dirichlet`, alpha 0.3), all of which train in every round, one epoch of at most
--texts-per-client texts, on the bundled base and adapter of the quickstart. Each run is `fedmq run --virtual-clock`
with the settings of METHODS and SECTIONS; its target is the test loss of "fedavg" with the same seed after R rounds.
Seconds are the processor's, over the rounds, with start and evaluations: other work on the host hardly changes them.
RESULTS is a file that takes one JSON line a run: runs that are in it are not done again, so that the table can be made
bit by bit, and `--table` prints what is there, in Markdown.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured import frame

BASELINE = "fedavg"
NESTEROV = {"server_optimizer": "nesterov", "server_optimizer_options": {"lr": 0.7, "momentum": 0.6}}
#: name -> what differs from FedAvg in section `federated`
METHODS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {},
    # what becomes of the factors
    "ffa": {"lora_aggregation": "ffa"},
    "rolora": {"lora_aggregation": "rolora"},
    "fed_sb": {"lora_aggregation": "fed_sb"},
    "fed_sb, rank 64": {"lora_aggregation": "fed_sb"},
    "flexlora": {"lora_aggregation": "flexlora"},
    "lora_fair": {"lora_aggregation": "lora_fair"},
    "fedex": {"lora_aggregation": "fedex"},
    "fedex, nesterov": {"lora_aggregation": "fedex", **NESTEROV},
    "fedex, int4 up": {"lora_aggregation": "fedex", "upload_codec": "int4"},
    "recommended": {"lora_aggregation": "fedex", "upload_codec": "int4", **NESTEROV},
    "recommended, optimizer kept": {"lora_aggregation": "fedex", "upload_codec": "int4", **NESTEROV},
    "flora": {"lora_aggregation": "flora"},
    "hetlora": {"lora_aggregation": "hetlora"},
    "hetlora, ranks 16 to 2": {"lora_aggregation": "hetlora"},
    "flexlora, ranks 16 to 2": {"lora_aggregation": "flexlora"},
    "flora, ranks 16 to 2": {"lora_aggregation": "flora"},
    # the step at the server
    "lr 1.5": {"server_optimizer_options": {"lr": 1.5}},
    "avgm": {"server_optimizer": "avgm", "server_optimizer_options": {"lr": 0.5, "momentum": 0.5}},
    "nesterov": NESTEROV,
    "adagrad": {"server_optimizer": "adagrad", "server_optimizer_options": {"lr": 0.02}},
    "adam": {"server_optimizer": "adam", "server_optimizer_options": {"lr": 0.01}},
    "yogi": {"server_optimizer": "yogi", "server_optimizer_options": {"lr": 0.01}},
    # rules that bound what one client can do
    "median": {"aggregation_method": "median"},
    "trimmed_mean": {"aggregation_method": "trimmed_mean"},
    "krum": {"aggregation_method": "krum"},
    "multi_krum": {"aggregation_method": "multi_krum"},
    "bulyan": {"aggregation_method": "bulyan"},
    "geometric_median": {"aggregation_method": "geometric_median"},
    "centered_clip": {"aggregation_method": "centered_clip"},
    "norm_clip": {"aggregation_method": "norm_clip", "aggregation_options": {"clip": 5.0}},
    # local training
    "fedprox": {"local_method": "fedprox"},
    "fednova": {"local_method": "fednova"},
    "feddyn": {"local_method": "feddyn", "local_method_options": {"alpha": 1.0}, "weighting": "uniform"},
    "sgd": {},
    "scaffold": {"local_method": "scaffold"},
    "optimizer kept": {},
    # what an update weighs
    "by tokens": {"weighting": "tokens"},
    "uniform weights": {"weighting": "uniform"},
    # bytes
    "bf16 up": {"upload_codec": "bf16"},
    "int8 up": {"upload_codec": "int8"},
    "int4 up": {"upload_codec": "int4"},
    "sign up": {"upload_codec": "sign"},
    "topk up": {"upload_codec": "topk"},
    "sign up, nesterov": {"upload_codec": "sign", **NESTEROV},
    "int4 both ways": {"upload_codec": "int4", "download_codec": "int4"},
    "int4 both ways, nesterov": {"upload_codec": "int4", "download_codec": "int4", **NESTEROV},
    # who is drawn: four of the eight
    "uniform, 4": {"clients_per_round": 4},
    "weighted, 4": {"clients_per_round": 4, "selection": "weighted"},
    "round_robin, 4": {"clients_per_round": 4, "selection": "round_robin"},
    "power_of_choice, 4": {"clients_per_round": 4, "selection": "power_of_choice"},
    "oort, 4": {"clients_per_round": 4, "selection": "oort"},
}
SGD = {"local_optimizer": "sgd", "learning_rate": 0.3}
RANKS = {"rank_per_client": {f"client_{k}": (16, 8, 4, 2)[k % 4] for k in range(8)}}
#: name -> section -> what differs in it
SECTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sgd": {"training": SGD},
    "scaffold": {"training": SGD},
    "fed_sb, rank 64": {"lora": {"r": 64, "lora_alpha": 128}},
    "optimizer kept": {"training": {"optimizer_state": "keep"}},
    "recommended, optimizer kept": {"training": {"optimizer_state": "keep"}},
    **{f"{name}, ranks 16 to 2": {"lora": RANKS} for name in ("hetlora", "flexlora", "flora")},
}
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--texts", default="bundled", help="CSV as of the Twitter customer support data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--texts-per-client", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--table", action="store_true", help="only print what RESULTS holds")
    arguments = parser.parse_args()
    done = (
        [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    if not arguments.table:
        for seed in arguments.seeds:
            for name in dict.fromkeys([BASELINE, *arguments.methods]):
                if not any((one["method"], one["seed"]) == (name, seed) for one in done):
                    done.append(one_run(arguments, name, seed))
                    with open(arguments.results, "a") as file:
                        print(json.dumps(done[-1]), file=file)
                    print(name, seed, [round(loss, 3) for loss in done[-1]["loss"]], file=sys.stderr)
    print("\n".join(table(done)))


def one_run(arguments: argparse.Namespace, name: str, seed: int) -> Run:
    """One run: loss by version; of each round its bytes, bias and seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quickstart = json.loads((Path(__file__).parents[1] / "configs" / "quickstart.json").read_text())
        federated = {"num_clients": 8, "clients_per_round": 8, "num_rounds": arguments.rounds}
        federated |= {"data_distribution": "dirichlet", "distribution_options": {"alpha": 0.3}}
        config = quickstart | {
            "seed": seed,
            "output_dir": str(folder / "run"),
            "log_dir": str(folder / "logs"),
            "training": quickstart["training"]
            | {"max_samples_per_client": arguments.texts_per_client, "learning_rate": arguments.learning_rate}
            | SECTIONS.get(name, {}).get("training", {}),
            "lora": quickstart["lora"] | SECTIONS.get(name, {}).get("lora", {}),
            "federated": federated | {"save_client_adapters": False} | METHODS[name],
            "data": {"dataset_path": arguments.texts},
            "generation": {"prompts": []},
        }
        (folder / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "fedmq", "run", str(folder / "config.json"), "--virtual-clock", "--json"]
        before = processor_s()
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        seconds = processor_s() - before
        metrics = json.loads((folder / "run" / "training_metrics.json").read_text())
    rounds = metrics["round_metrics"]
    return {
        "method": name,
        "seed": seed,
        "loss": metrics["training_history"]["global_loss"],
        "nbytes": [row["bytes_up"] + row["bytes_down"] for row in rounds],
        "nbytes_up": [row["bytes_up"] for row in rounds],
        "bias": [row["aggregation_bias"] for row in rounds],
        "seconds": seconds / len(rounds),
        **frame(),
    }


def processor_s() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(runs: list[Run]) -> list[str]:
    """Markdown: a line for each method, mean and spread over the seeds that it and the baseline have."""
    targets = {one["seed"]: one["loss"][-1] for one in runs if one["method"] == BASELINE}
    lines = [
        f"Mean over seeds (least to most). Rounds and bytes are to the loss of `{BASELINE}` with the same seed after "
        f"{max(len(one['loss']) for one in runs) - 1} rounds.",
        "",
        "| method | seeds | loss | rounds to the target | MB to it, up + down | up only | bias | seconds a round |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        of = [one for one in runs if one["method"] == name and one["seed"] in targets]
        if of:
            reached = [first(one["loss"], targets[one["seed"]]) for one in of]
            cells = [name, str(len(of)), spread([one["loss"][-1] for one in of], 3)]
            if None in reached:
                cells += [f"not reached ({sum(r is not None for r in reached)} of {len(of)})", "", ""]
            else:
                cells.append(spread([float(r or 0) for r in reached], 0))
                for key in ("nbytes", "nbytes_up"):
                    cells.append(spread([sum(one[key][:r]) / 1e6 for one, r in zip(of, reached, strict=True)], 1))
            cells.append(spread([statistics.mean(one["bias"]) for one in of], 3))
            cells.append(spread([one["seconds"] for one in of], 1))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def first(losses: list[float], target: float) -> int | None:
    """The first round whose loss is the target or less."""
    return next((round for round, loss in enumerate(losses) if round and loss <= target), None)


def spread(values: list[float], digits: int) -> str:
    """Mean (least to most)."""
    mean, least, most = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"


if __name__ == "__main__":
    main()
