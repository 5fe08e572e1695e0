"""What the training benchmarks share: real texts, a base of GPT-2's shape, and the frame of a result."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from measured import frame
from measured import summary as summary

from fedmq.config import get_default_config, resolve_dataset_path
from fedmq.data.reading import read_filtered
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import BUNDLED, load_tokenizer
from fedmq.recipe import DataSpec, LoRASpec, TrainingRecipe

MAX_LENGTH = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--base, --texts, --tokenizer, --device, --threads, --json."""
    parser.add_argument(
        "--base", help="folder or hub id; default: GPT-2 small's shape with random weights, which take the same time"
    )
    parser.add_argument("--texts", default="bundled", help="CSV with a column `text`; default: the bundled sample")
    parser.add_argument("--tokenizer", default=str(BUNDLED["fedmq-tiny"]), help="folder or hub id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N; not every benchmark looks at it")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")


def load_texts(arguments: argparse.Namespace) -> list[np.ndarray]:
    """Token ids of the customers' texts, EOS last, in the file's order."""
    spec = DataSpec("text", "author_id", 0.8, 0.1, 0.1, 10, True)
    rows = read_filtered(resolve_dataset_path(arguments.texts), spec).frame["text"].tolist()
    return load_tokenizer(arguments.tokenizer).encode(rows, MAX_LENGTH)


def base_folder(arguments: argparse.Namespace, scratch: Path) -> str:
    """A folder with the base and the tokenizer; makes one with random weights in `scratch` if none was named."""
    if arguments.base:
        return str(arguments.base)
    torch.manual_seed(0)
    folder = scratch / "gpt2-small-random"
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(folder)
    return str(folder)


def lora_spec(layers: tuple[int, ...] | None = None, dropout: float = 0.0) -> LoRASpec:
    """LoRA of rank 8 on c_attn."""
    return LoRASpec(8, 16, ("c_attn",), dropout, layers, "none", "CAUSAL_LM", False)


def load_model(
    base: str, lora: LoRASpec, engine: str = "fast", precision: str = "auto", device: str = "cpu"
) -> LanguageModel:
    """A base with a new adapter; the base's own dropout is that of the adapter."""
    lm = LanguageModel.load(
        base, lora, max_length=MAX_LENGTH, seed=1, device=device, engine=engine, precision=precision
    )
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = lora.lora_dropout
    return lm


def recipe(**changed: Any) -> TrainingRecipe:
    """One epoch in file order, batches of 8, learning rate from 1e-3 down to 0; else fedmq's defaults."""
    defaults = get_default_config().to_run_spec().training
    ours: dict[str, Any] = {"num_epochs": 1, "learning_rate": 1e-3, "warmup_steps": 0, "logging_steps": 1}
    return replace(defaults, **ours | {"shuffle_dataset": False, **changed})


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Host, card, load, commit, time and versions."""
    found = frame(torch=torch.__version__, transformers=transformers.__version__)
    card = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    return found | {"host": f"{found['host']}, {threads} threads{card}"}
