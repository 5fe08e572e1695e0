"""Local training: real tokens a second of engine "fast" against the usual ways, and the limit of the machine.

    python benchmarks/bench_training.py [--base FOLDER] [--texts CSV --tokenizer FOLDER] [--repeats 5]
        [--device cuda:0] [--json]

All train the same batches of 8 texts from the same adapter (LoRA r = 8 on c_attn, no dropout, so that losses can be
compared), in turns, in one process. Tokens are those that are not padding. The limit is the time of the frozen weights'
matrix products alone, forward and backward, for the same batches, in the precision that is faster here. The last rows
score the same texts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from texts_and_bases import (
    MAX_LENGTH,
    add_arguments,
    base_folder,
    load_model,
    load_texts,
    lora_spec,
    machine,
    recipe,
    summary,
)

from fedmq.learning.batching import IGNORED, collate, token_nll
from fedmq.learning.evaluate import evaluate
from fedmq.learning.models import LanguageModel
from fedmq.learning.train import train

Texts = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    transformers.utils.logging.set_verbosity_error()
    texts = load_texts(arguments)[: 8 * arguments.batches]
    tokens = sum(map(len, texts))
    with tempfile.TemporaryDirectory() as scratch:
        base = base_folder(arguments, Path(scratch))
        variants = trainings(base, texts, arguments.device) | evaluations(base, texts, arguments.device)
        rates: dict[str, list[float]] = {name: [] for name in variants}
        losses: dict[str, float | None] = {}
        for run in variants.values():
            run()  # kernels are set up, pages read
            finish(arguments.device)
        for _ in range(arguments.repeats):
            for name, run in variants.items():
                started = time.perf_counter()
                losses[name] = run()
                finish(arguments.device)
                rates[name].append(tokens / (time.perf_counter() - started))
    report(arguments, {name: summary(r) for name, r in rates.items()}, losses, texts)


def finish(device: str) -> None:
    """A card has work in hand after the call that asked for it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def trainings(base: str, texts: Texts, device: str) -> dict[str, Callable[[], float | None]]:
    """Name of a way to train -> a run over all texts that returns its mean loss."""
    library = load_model(base, lora_spec(), "hf", device=device)
    ours = load_model(base, lora_spec(), device=device)
    single = load_model(base, lora_spec(), precision="fp32", device=device)
    start = library.initial_adapter()
    return {
        f"HF Trainer, padded to {MAX_LENGTH}": lambda: trainer(library, texts, MAX_LENGTH, False),
        "HF Trainer, dynamic padding": lambda: trainer(library, texts, None, False),
        "HF Trainer, dynamic padding, bf16 autocast": lambda: trainer(library, texts, None, True),
        "plain loop, packed row": lambda: packed_row(library, texts),
        "fedmq fast, fp32 weights": lambda: fast(single, start, texts),
        "fedmq fast, precision by probe": lambda: fast(ours, start, texts),
        "limit: matrix products alone": lambda: products(ours, texts),
    }


def evaluations(base: str, texts: Texts, device: str) -> dict[str, Callable[[], float | None]]:
    """The same for scoring."""
    library = load_model(base, lora_spec(), "hf", device=device)
    ours = load_model(base, lora_spec(), device=device)
    return {
        f"Trainer.evaluate, padded to {MAX_LENGTH}": lambda: hf_trainer(library, texts, MAX_LENGTH, False).evaluate()[
            "eval_loss"
        ],
        "fedmq evaluate": lambda: evaluate(ours, texts, batch_size=8).eval_loss,
    }


def hf_trainer(lm: LanguageModel, texts: Texts, pad_to: int | None, bf16: bool) -> transformers.Trainer:
    """The library's Trainer; first labels are ignored, so that its loss is the mean over targets."""
    lm.set_adapter(lm.initial_adapter())
    settings = transformers.TrainingArguments(
        output_dir=tempfile.gettempdir(),
        use_cpu=lm.device == "cpu",
        bf16=bf16,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.01,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    lm.model.base_model.model.loss_type = "ForCausalLM"

    def pad(batch: Texts) -> dict[str, torch.Tensor]:
        return hf_padding(batch, pad_to or 0)

    made = transformers.Trainer(lm.model, settings, data_collator=pad, train_dataset=texts, eval_dataset=texts)
    made.remove_callback(transformers.PrinterCallback)
    return made


def hf_padding(batch: Texts, pad_to: int) -> dict[str, torch.Tensor]:
    """A batch padded to its longest text, and at least to `pad_to` tokens."""
    tensors = collate(batch)
    missing = max(0, pad_to - tensors["labels"].shape[1])
    fill = {"labels": IGNORED, "input_ids": 0, "attention_mask": 0}
    return {name: torch.nn.functional.pad(t, (0, missing), value=fill[name]) for name, t in tensors.items()}


def trainer(lm: LanguageModel, texts: Texts, pad_to: int | None, bf16: bool) -> float:
    result = hf_trainer(lm, texts, pad_to, bf16).train()
    for mark in ("_is_accelerate_prepared", "_original_forward", "forward"):
        vars(lm.model).pop(mark, None)  # else the next run would keep this one's precision
    return float(result.training_loss)


def packed_row(lm: LanguageModel, texts: Texts) -> float:
    """One row of all tokens of a batch, with positions that start anew and a mask that parts the texts."""
    lm.set_adapter(lm.initial_adapter())
    weights = [p for p in lm.model.parameters() if p.requires_grad]
    steps = -(-len(texts) // 8)
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, steps)
    lm.model.train()
    means = []
    for batch in (texts[i : i + 8] for i in range(0, len(texts), 8)):
        owner = torch.cat([torch.full((len(text),), k) for k, text in enumerate(batch)])
        positions = torch.cat([torch.arange(len(text)) for text in batch])
        labels = torch.cat([torch.tensor([IGNORED, *text[1:].tolist()]) for text in batch])
        visible = (owner[:, None] == owner) & (torch.arange(len(owner))[:, None] >= torch.arange(len(owner)))
        output = lm.model(
            input_ids=torch.from_numpy(np.concatenate(batch).astype(np.int64))[None].to(lm.device),
            position_ids=positions[None].to(lm.device),
            attention_mask=visible[None, None].to(lm.device),
            use_cache=False,
        )
        nll = token_nll(output.logits, labels[None].to(lm.device)).sum() / (labels != IGNORED).sum()
        nll.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        means.append(nll.item())
    lm.model.eval()
    return sum(means) / len(means)


def fast(lm: LanguageModel, start: dict[str, np.ndarray], texts: Texts) -> float:
    lm.set_adapter(start)
    history = train(lm, texts, recipe(), seed=1).log_history
    return float(np.mean([record["loss"] for record in history]))


def products(lm: LanguageModel, texts: Texts) -> None:
    """x W and dy W^T for every frozen weight and batch, and nothing else."""
    assert lm.packed is not None
    frozen, dtype = lm.packed.frozen, lm.packed.dtype
    weights = [*(weight for weight, _ in frozen.linear.values()), frozen.head]
    widths = {width for weight in weights for width in weight.shape}
    for batch in (texts[i : i + 8] for i in range(0, len(texts), 8)):
        count = sum(map(len, batch))
        rows = {width: torch.ones(count, width, dtype=dtype, device=lm.device) for width in widths}
        for weight in weights:
            # The last token of a text has no target: the head does not see it.
            seen = slice(len(batch), None) if weight is frozen.head else slice(None)
            rows[weight.shape[0]][seen] @ weight
            rows[weight.shape[1]][seen] @ weight.mT


def report(
    arguments: argparse.Namespace,
    rates: dict[str, dict[str, float]],
    losses: dict[str, float | None],
    texts: Texts,
) -> None:
    padded, dynamic, *_ = rates
    ours, limit = "fedmq fast, precision by probe", "limit: matrix products alone"
    scored_by_library, scored = list(rates)[-2:]
    median: dict[str, float] = {name: rate["median"] for name, rate in rates.items()}
    result: dict[str, Any] = {
        "tokens_per_s": rates,
        "loss": losses,
        "ratios": {
            "fast / HF padded": median[ours] / median[padded],
            "fast / HF dynamic": median[ours] / median[dynamic],
            "fast / limit": median[ours] / median[limit],
            "evaluate / Trainer.evaluate padded": median[scored] / median[scored_by_library],
        },
        "texts": len(texts),
        "mean_tokens": sum(map(len, texts)) / len(texts),
        "repeats": arguments.repeats,
        **machine(arguments.threads, arguments.device),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['host']}; {len(texts)} texts of {result['mean_tokens']:.1f} tokens; real tokens a second")
    for name, rate in rates.items():
        loss = losses[name]
        shown = "" if loss is None else f"  loss {loss:.4f}"
        print(f"{name:45} {rate['median']:7.0f}  ({rate['min']:.0f} to {rate['max']:.0f}){shown}")
    for name, ratio in result["ratios"].items():
        print(f"{name:45} {ratio:7.2f}")


if __name__ == "__main__":
    main()
