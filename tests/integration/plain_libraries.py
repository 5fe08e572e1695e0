"""An exported folder as somebody without fedmq opens it."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path
from typing import Any

import torch


def opened_as_its_card_says(folder: Path) -> dict[str, Any]:
    """Run the code of its README.md there; returns the names that it leaves: `model`, `tokenizer` and others."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(block, names)  # noqa: S102 - it is what is tested
    assert said.getvalue().startswith("Hello")
    return names


def mean_loss(names: dict[str, Any], texts: list[str], max_length: int) -> float:
    """In nats per token over all texts, EOS included, by nothing but transformers and torch."""
    losses = []
    for text in texts:
        ids = [*names["tokenizer"](text)["input_ids"][: max_length - 1], names["tokenizer"].eos_token_id]
        with torch.no_grad():
            logits = names["model"](input_ids=torch.tensor([ids])).logits[0]
        losses += torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none").tolist()
    return math.fsum(losses) / len(losses)
