"""Trainings in less and less memory, in a process of its own: `limited_memory.py TOKENIZER_FOLDER LIMITS`.

LIMITS is a JSON object: for each engine, how many MiB the process may have above what it has, trial after trial; null
is no limit. Prints one JSON object: for each engine its trials with the log, the loss, how far the adapter is from that
of the first trial, and the error if there was one.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch

from fedmq import get_default_config
from fedmq.learning.models import LanguageModel
from fedmq.learning.outcome import out_of_memory
from fedmq.learning.tokenizer import load_tokenizer
from fedmq.learning.train import train
from fedmq.recipe import TrainingRecipe

#: Attention's weights of a whole batch take 32 MiB, and nothing else is as large.
LENGTH, BATCH, HEADS = 128, 32, 16


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def virtual_bytes() -> int:
    """Address space in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    return pages * resource.getpagesize()


def trial(lm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, limit: int | None) -> dict[str, Any]:
    """One training from the same start; `limit` in MiB above what is in use."""
    records = Records()
    logging.getLogger("fedmq").addHandler(records)
    lm.set_adapter(tiny.moving(lm.initial_adapter()))
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + (limit << 20), unlimited[1]))
    found: dict[str, Any] = {"limit": limit, "error": None}
    try:
        result = train(lm, texts, recipe, seed=3)
        found |= {"loss": result.train_loss, "num_steps": result.num_steps}
    except (MemoryError, RuntimeError) as error:
        found |= {"error": str(error), "known": out_of_memory(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
        logging.getLogger("fedmq").removeHandler(records)
    return found | {"log": records.lines, "adapter": tiny.flat(lm.get_adapter())}


def trials(engine: str, folder: str, limits: list[int | None]) -> list[dict[str, Any]]:
    """Two steps of one whole batch each, under each limit."""
    model = tiny.base("gpt2", n_positions=LENGTH, n_head=HEADS)
    lm = tiny.load(model, load_tokenizer(folder), tiny.spec("gpt2"), engine)
    rng = np.random.default_rng(0)
    texts = [np.append(rng.integers(1, tiny.VOCAB, LENGTH - 1), 0) for _ in range(2 * BATCH)]
    changes = ["num_epochs=1", f"batch_size={BATCH}", "learning_rate=1e-3", "warmup_steps=0", "logging_steps=1"]
    changes += ["precision=fp32", "num_threads=1"]
    recipe = get_default_config().with_overrides([f"training.{one}" for one in changes]).to_run_spec().training
    found = [trial(lm, texts, recipe, limit) for limit in limits]
    whole, start = found[0]["adapter"], tiny.flat(tiny.moving(lm.initial_adapter()))
    for one in found:
        adapter = one.pop("adapter")
        one |= {"distance": tiny.distance(adapter, whole), "moved": tiny.distance(adapter, start)}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({engine: trials(engine, sys.argv[1], each) for engine, each in json.loads(sys.argv[2]).items()}))
