"""Wall time to the same test loss: a federated run, centralised training, and a plain loop that pads.

    python benchmarks/bench_end_to_end.py [--base fedmq-tiny] [--texts CSV] [--repeats 5] [--json]

Federated: `fedmq run` with 4 clients (equal random parts), 10 rounds of one epoch, Nesterov momentum at the server
(0.7, 0.6; `--server-optimizer none --server-options {}` is plain FedAvg), 2 worker processes, from the opening of
round 1 to the commit of round 10; all versions are evaluated meanwhile. Its last test loss is the target. The others
have the four clients' texts in one place and every core, and score the test texts after each epoch until the target
is reached, or for --max-epochs: how often it was not is said, and what they took then is a lower bound. One has
fedmq's own engine, one the library's model, AdamW and every text padded to max_length; in batches of 4 x 8, as many
texts a step as the clients together, and of 8, as the clients. The padded loop computes what the centralised run does
(tests/learning/fast/test_fast_parity.py), so it runs one epoch, and counts for as many as that.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bench_training import hf_padding
from texts_and_bases import add_arguments, machine, recipe, summary

from fedmq.config import ExperimentConfig, resolve_dataset_path
from fedmq.data.reading import read_filtered
from fedmq.data.shards import open_split
from fedmq.learning.batching import token_nll
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train
from fedmq.storage.journal import Journal

CLIENTS, ROUNDS, BATCH = 4, 10, 8
Texts = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(base="fedmq-tiny", tokenizer=None)  # the base has its own
    parser.add_argument("--learning-rate", type=float, default=6e-3, help="of the clients")
    parser.add_argument("--server-optimizer", default="nesterov")
    parser.add_argument("--server-options", type=json.loads, default={"lr": 0.7, "momentum": 0.6}, metavar="JSON")
    parser.add_argument(
        "--central-rates", type=float, nargs=2, help="of the others, for batches of 4 x 8 and of 8; default: the same"
    )
    parser.add_argument("--rows", type=int, default=480, help="customers' texts used: 80 %% to train, 10 %% to test")
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat; the next has the next")
    parser.add_argument("--max-epochs", type=int, default=40, help="of the other two")
    arguments = parser.parse_args()
    arguments.central_rates = arguments.central_rates or [arguments.learning_rate] * 2
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    transformers.utils.logging.set_verbosity_error()
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            config = make_config(arguments, Path(folder), seed=arguments.seed + repeat)
            took, target = federated(config, Path(folder))
            results = {"fedmq, 4 clients": (took, target)}
            pooled, test = pooled_texts(config)
            lm = load(config, "fast")
            library = load(config, "hf")
            warm_up(lm, library, pooled)
            sizes = ((CLIENTS * BATCH, "4 x 8"), (BATCH, "8"))
            for (size, name), rate in zip(sizes, arguments.central_rates, strict=True):
                took, loss, epochs = centralised(lm, pooled, test, target, size, rate, arguments.max_epochs)
                results[f"centralised, batches of {name}"] = (took, loss)
                took = epochs * padded_epoch(library, pooled, test, size, rate)
                results[f"padded loop, batches of {name}"] = (took, loss)
        for name, (took, loss) in results.items():
            seconds.setdefault(name, []).append(took)
            losses.setdefault(name, []).append(loss)
    report(arguments, seconds, losses)


def make_config(arguments: argparse.Namespace, folder: Path, seed: int) -> ExperimentConfig:
    config = ExperimentConfig()
    config.seed, config.device = seed, "cpu"
    config.output_dir, config.log_dir = str(folder / "run"), str(folder / "logs")
    config.model.model_name = arguments.base
    config.lora.lora_dropout = 0.0
    config.training.num_epochs, config.training.batch_size = 1, BATCH
    config.training.learning_rate, config.training.warmup_steps = arguments.learning_rate, 0
    config.federated.num_clients, config.federated.clients_per_round = CLIENTS, CLIENTS
    config.federated.num_rounds, config.federated.num_workers = ROUNDS, 2
    config.federated.save_client_adapters = False
    config.federated.server_optimizer = arguments.server_optimizer
    config.federated.server_optimizer_options = arguments.server_options
    config.data.dataset_path = str(folder / "texts.csv")
    frame = read_filtered(resolve_dataset_path(arguments.texts), config.to_run_spec().data).frame
    frame = frame[["text", "author"]].rename(columns={"author": "author_id"}).head(arguments.rows)
    frame.assign(inbound=True).to_csv(folder / "texts.csv", index=False)
    config.generation.prompts = ["My order is"]
    config.generation.max_new_tokens = 1
    config.save(folder / "config.json")
    return config


def federated(config: ExperimentConfig, folder: Path) -> tuple[float, float]:
    """Seconds from the opening of round 1 to the last commit, and the last test loss."""
    subprocess.run([sys.executable, "-m", "fedmq", "run", str(folder / "config.json")], check=True, capture_output=True)
    journal = Journal.open(Path(config.output_dir) / "run.db", read_only=True)
    try:
        rounds = {row["round"]: row for row in journal.rounds()}
        scores = {row["version"]: row["loss_sum"] / row["num_tokens"] for row in journal.evaluations()}
        return rounds[ROUNDS]["committed_at"] - rounds[1]["opened_at"], scores[ROUNDS]
    finally:
        journal.close()


def pooled_texts(config: ExperimentConfig) -> tuple[Texts, Texts]:
    """What the four clients trained on, and the test texts."""
    data, pooled = Path(config.output_dir) / "data", []
    for folder in sorted((data / "clients").iterdir()):
        split = open_split(folder, "train")
        pooled += list(split)
    return pooled, list(open_split(data / "test", "test"))


def load(config: ExperimentConfig, engine: str) -> LanguageModel:
    run = config.to_run_spec()
    lm = LanguageModel.load(
        run.model.name, run.lora, max_length=run.model.max_length, seed=config.seed, device="cpu", engine=engine
    )
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return lm


def warm_up(lm: LanguageModel, library: LanguageModel, texts: Texts) -> None:
    train(lm, texts[:BATCH], recipe(precision="auto"), seed=0)
    evaluate(library, texts[:BATCH], batch_size=BATCH)


def centralised(
    lm: LanguageModel, texts: Texts, test: Texts, target: float, size: int, rate: float, max_epochs: int
) -> tuple[float, float, int]:
    """Seconds, the test loss then, and epochs."""
    lm.set_adapter(lm.initial_adapter())
    settings = recipe(batch_size=size, learning_rate=rate, shuffle_dataset=True, precision="auto")
    started = time.perf_counter()
    for epoch in range(max_epochs):
        train(lm, texts, settings, seed=epoch)
        loss = evaluate(lm, test, batch_size=BATCH).eval_loss
        if loss <= target:
            break
    return time.perf_counter() - started, loss, epoch + 1


def padded_epoch(lm: LanguageModel, texts: Texts, test: Texts, size: int, rate: float) -> float:
    """Seconds of one epoch and one scoring."""
    lm.set_adapter(lm.initial_adapter())
    model = lm.model
    weights = [p for p in model.parameters() if p.requires_grad]

    def nll(batch: Texts) -> tuple[torch.Tensor, int]:
        tensors = hf_padding(batch, lm.max_length)
        labels = tensors.pop("labels")
        return token_nll(model(**tensors, use_cache=False).logits, labels).sum(), sum(len(text) - 1 for text in batch)

    started = time.perf_counter()
    order = np.random.default_rng(0).permutation(len(texts))
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, -(-len(texts) // size))
    model.train()
    for start in range(0, len(texts), size):
        total, count = nll([texts[int(i)] for i in order[start : start + size]])
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(test), BATCH):
            nll(test[start : start + BATCH])
    return time.perf_counter() - started


def report(arguments: argparse.Namespace, seconds: dict[str, list[float]], losses: dict[str, list[float]]) -> None:
    ours, *others = seconds
    pairs = [(ours, name) if name.startswith("centralised") else (name, ours) for name in others]
    ratios = {
        f"{over} / {under}": summary([a / b for a, b in zip(seconds[over], seconds[under], strict=True)])
        for over, under in pairs
    }
    result: dict[str, Any] = {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "test_loss": {name: summary(values) for name, values in losses.items()},
        "not_reached": {name: sum(map(operator.gt, values, losses[ours])) for name, values in losses.items()},
        "ratios": ratios,
        "base": os.path.basename(arguments.base),
        "learning_rate": arguments.learning_rate,
        "central_rates": arguments.central_rates,
        "server_optimizer": {"name": arguments.server_optimizer, **arguments.server_options},
        "rows": arguments.rows,
        "first_seed": arguments.seed,
        "repeats": arguments.repeats,
        **machine(arguments.threads),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}; {result['base']}; seconds to the test loss of round {ROUNDS}")
    for name, values in result["seconds"].items():
        loss = result["test_loss"][name]["median"]
        missed = result["not_reached"][name]
        print(
            f"{name:60} {values['median']:7.1f}  ({values['min']:.1f} to {values['max']:.1f})  loss {loss:.4f}"
            + (f", not reached in {missed} of {arguments.repeats}" if missed else "")
        )
    for name, ratio in ratios.items():
        bound = ""
        if any(result["not_reached"][peer] for peer in others if peer in name):
            bound = "at most, as the target was not reached" if name.startswith(ours) else "at least, likewise"
        print(f"{name:60} {ratio['median']:7.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})  {bound}")


if __name__ == "__main__":
    main()
