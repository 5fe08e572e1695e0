"""LoRA in the top layers only, with what the frozen layers below make of a shard kept: loss and speed.

    python benchmarks/bench_trunk.py [--base fedmq-tiny] [--texts CSV] [--epochs 3] [--repeats 5] [--json]

The same texts are trained on with adapters in all layers and in the top ones (LoRA r = 8 on those of a layer's
projections that --targets names), from a new adapter, and a held-out tenth is scored. Speed is real tokens a second of
an epoch after the first; the first one also fills the cache. Learning rates: the best of --learning-rates for each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from texts_and_bases import MAX_LENGTH, add_arguments, base_folder, load_model, load_texts, machine, recipe, summary

from fedmq.data.shards import TokenSplit, open_split, write_shard
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train
from fedmq.recipe import LoRASpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--targets", nargs="+", default=["c_attn", "c_proj", "c_fc"])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-3, 6e-3, 1.2e-2])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = base_folder(arguments, folder)
        texts, test = shards(arguments, folder)
        depth = load(base, arguments, None).model.config.num_hidden_layers
        models = {}
        for count in [depth, *(n for n in (6, 4, 2, 1) if n < depth)]:
            layers = None if count == depth else tuple(range(depth - count, depth))
            lm = models["all" if layers is None else f"top {count} of {depth}"] = load(base, arguments, layers)
            lm.keep_trunks(folder / "trunks")
        losses = {
            name: {rate: score(lm, texts, test, rate, arguments.epochs) for rate in arguments.learning_rates}
            for name, lm in models.items()
        }
        speeds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(arguments.repeats):
            for name, lm in models.items():
                speeds[name].append(speed(lm, texts))
    rows = [
        {
            "layers": name,
            "trained": lm.num_trainable,
            "test_loss": min(losses[name].values()),
            "learning_rate": min(losses[name], key=losses[name].__getitem__),
            "tokens_per_s": summary(speeds[name]),
        }
        for name, lm in models.items()
    ]
    result = {
        "base": Path(base).name,
        "rows": rows,
        "texts": len(texts),
        "mean_tokens": float(np.mean(texts.lengths)),
        "epochs": arguments.epochs,
        **machine(arguments.threads),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}; {result['base']}; {len(texts)} texts, {arguments.epochs} epochs")
    for row in rows:
        rate = row["tokens_per_s"]
        print(
            f"{row['layers']:12} {row['trained']:9,} trained  test loss {row['test_loss']:.4f}"
            f"  {rate['median']:6.0f} tokens/s ({rate['min']:.0f} to {rate['max']:.0f})"
        )


def shards(arguments: argparse.Namespace, folder: Path) -> tuple[TokenSplit, TokenSplit]:
    """Nine tenths to train, one to test, stored: only what is stored has a cache."""
    texts = load_texts(arguments)[: arguments.rows]
    cut = len(texts) * 9 // 10
    eos, largest = int(texts[0][-1]), max(int(text.max()) for text in texts)
    write_shard(
        folder / "shard",
        kind="client",
        client_id="client_0",
        splits={"train": texts[:cut], "test": texts[cut:]},
        tokenizer_digest="0" * 64,
        max_length=MAX_LENGTH,
        eos_token_id=eos,
        vocab_size=largest + 1,
        statistics={},
    )
    return open_split(folder / "shard", "train"), open_split(folder / "shard", "test")


def load(base: str, arguments: argparse.Namespace, layers: tuple[int, ...] | None) -> LanguageModel:
    return load_model(base, LoRASpec(8, 16, tuple(arguments.targets), 0.0, layers, "none", "CAUSAL_LM", False))


def score(lm: LanguageModel, texts: TokenSplit, test: TokenSplit, rate: float, epochs: int) -> float:
    lm.set_adapter(lm.initial_adapter())
    settings = recipe(precision="auto", learning_rate=rate, num_epochs=epochs, shuffle_dataset=True)
    train(lm, texts, settings, seed=1)
    return evaluate(lm, test, batch_size=8).eval_loss


def speed(lm: LanguageModel, texts: TokenSplit) -> float:
    started = time.perf_counter()
    train(lm, texts, recipe(precision="auto", shuffle_dataset=True), seed=1)
    return float(texts.lengths.sum()) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
