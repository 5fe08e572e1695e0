"""The card of a pretrained base: what it is, what it learnt from, how well, how to make it again."""

from __future__ import annotations

import math
import platform
from typing import Any, NamedTuple

import tokenizers
import torch
import transformers

HELD_OUT_EVERY = 50  # every 50th document of each source is never trained on


class Measured(NamedTuple):
    """What pretraining found out; the dicts are keyed by source."""

    parameters: int
    steps: int
    epoch_tokens: int
    held_out_tokens: dict[str, int]
    held_out_bytes: dict[str, int]
    held_out_loss: dict[str, float]  # nats per token; nan where nothing is held out
    sha256: dict[str, str]


def card(options: dict[str, Any], measured: Measured, sources: dict[str, dict[str, str]]) -> str:
    """The card as markdown.

    Args:
      options: the fields of `Pretraining`.
      measured: counts and losses.
      sources: title, package and licence by source; a source that is missing gets empty cells.
    """
    seen = measured.steps * options["batch_size"] * options["n_positions"]
    tokens, nbytes = sum(measured.held_out_tokens.values()), sum(measured.held_out_bytes.values())
    losses, counts = measured.held_out_loss, measured.held_out_tokens
    nats = sum(losses[name] * counts[name] for name in losses if counts[name])
    per_token, per_byte = (math.exp(nats / tokens), math.exp(nats / nbytes)) if tokens else (math.nan, math.nan)
    rows = []
    for name, loss in losses.items():
        about = sources.get(name, {})
        cells = [name, about.get("title", ""), about.get("package", ""), about.get("licence", "")]
        rows.append("| " + " | ".join([*cells, f"{math.exp(loss):.1f}", f"`{measured.sha256[name]}`"]) + " |")
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
    return f"""# fedmq-tiny

A small English GPT-2 for trying federated fine-tuning without network or GPU. It writes short English
phrases, often grammatical, without much sense, and knows nothing; use it for trials only.

- architecture: GPT-2, {options["n_layer"]} layers, width {options["n_embd"]}, {options["n_head"]} heads, \
{options["n_positions"]} positions, tied embeddings; {measured.parameters:,} parameters, stored in float16
- tokenizer: byte-level BPE trained on the same text, {options["vocab_size"]} tokens; \
`<|endoftext|>` begins and ends a text
- training: {measured.steps:,} of {options["steps"]:,} steps, {seen:,} tokens seen \
({seen / measured.epoch_tokens:.2f} epochs of {measured.epoch_tokens:,})
- held-out perplexity: {per_token:.2f} per token, {per_byte:.3f} per byte, on {tokens:,} tokens of every \
{HELD_OUT_EVERY}th document, never trained on
- licence of the weights: CC0-1.0; the text keeps its own licences, which all permit redistribution

| source | what | package | licence | held-out perplexity | sha256 of the text file |
|---|---|---|---|---|---|
{chr(10).join(rows)}

To make it again (the corpus's module says how to unpack the packages):

```
python -m fedmq.learning.corpus --unpacked UNPACKED --out CORPUS
python -m fedmq.learning.pretrain --corpus-dir CORPUS --out fedmq/assets/fedmq-tiny \\
  {flags}
```

Made with torch {torch.__version__}, transformers {transformers.__version__}, \
tokenizers {tokenizers.__version__}, Python {platform.python_version()}, {platform.machine()}, \
bfloat16 autocast, num_threads={options["num_threads"]}.
"""
