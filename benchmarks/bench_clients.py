"""Many small clients on one base: clients a second and memory, for 1,000 clients of 2 to 8 texts each.

    python benchmarks/bench_clients.py [--base FOLDER] [--texts CSV --tokenizer FOLDER] [--repeats 5] [--json]

Cohorts (of 50) train one epoch each from the same adapter (LoRA r = 8 on c_attn, no dropout), in turns:
one after another with the Trainer of transformers (dynamic padding, the base loaded once), one after another with
engine "fast", and in groups on one base. Memory is the peak of this process after all 1,000 clients have
their texts open and one cohort has trained in groups, before any of the others is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from bench_training import trainer
from texts_and_bases import (
    add_arguments,
    base_folder,
    load_model,
    load_texts,
    lora_spec,
    machine,
    recipe,
    summary,
)

from fedmq.learning.client import FederatedClient, train_clients
from fedmq.learning.outcome import Diverged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=50)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4, 16])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    transformers.utils.logging.set_verbosity_error()
    texts, size_of_cohort = load_texts(arguments), arguments.cohort
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        base = base_folder(arguments, Path(scratch))
        lm = load_model(base, lora_spec())
        clients = []
        for k in range(arguments.clients):
            # With fewer texts than clients want, some texts are several clients'.
            own = [texts[int(i)] for i in rng.integers(0, len(texts), rng.integers(2, 9))]
            clients.append(FederatedClient(f"client_{k}", lm, own))

        def together(cohort: list[FederatedClient], size: int) -> float:
            losses = []
            for start in range(0, size_of_cohort, size):
                part = cohort[start : start + size]
                n, adapter = len(part), lm.get_adapter()
                outcomes = train_clients(
                    part, recipe(), seeds=[1] * n, round=1, memories=[{}] * n, starts=[adapter] * n
                )
                losses += [one[0].train_loss for one in outcomes if not isinstance(one, Diverged)]
            return float(np.mean(losses))

        together(clients[:size_of_cohort], max(arguments.groups))
        memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        library = load_model(base, lora_spec(), "hf")

        def one_by_one(cohort: list[FederatedClient], _: int) -> float:
            losses = [trainer(library, list(client.splits["train"] or []), None, False) for client in cohort]
            return float(np.mean(losses))

        ways = {"HF Trainer, one after another": (one_by_one, 1)}
        ways |= {f"fedmq fast, {size} together": (together, size) for size in arguments.groups}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        losses = {}
        for repeat in range(arguments.repeats):
            cohort = [clients[int(i)] for i in np.random.default_rng(repeat).permutation(len(clients))[:size_of_cohort]]
            for name, (run, size) in ways.items():
                started = time.perf_counter()
                losses[name] = run(cohort, size)
                rates[name].append(size_of_cohort / (time.perf_counter() - started))
    summaries = {name: summary(rate) for name, rate in rates.items()}
    result = {
        "clients_per_s": summaries,
        "mean_train_loss": losses,
        "peak_memory_gb": memory_gb,
        "clients": arguments.clients,
        "cohort": arguments.cohort,
        "repeats": arguments.repeats,
        **machine(arguments.threads),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}; {arguments.clients} clients, cohorts of {size_of_cohort}; clients a second")
    for name, rate in summaries.items():
        print(f"{name:40} {rate['median']:6.2f}  ({rate['min']:.2f} to {rate['max']:.2f})  loss {losses[name]:.4f}")
    print(f"peak memory {memory_gb:.2f} GB")


if __name__ == "__main__":
    main()
