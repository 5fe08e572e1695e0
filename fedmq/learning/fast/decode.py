"""Generation, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedmq.learning.fast.forward import Past
from fedmq.learning.fast.model import PackedModel
from fedmq.tensors import NamedTensors


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The most likely tokens that together have probability `top_p`, the first of them always; 0 elsewhere.

    Args:
      probabilities: (vocab,), sum 1.
      top_p: in (0, 1]; 1 keeps all.

    Example:
      >>> nucleus(torch.tensor([0.25, 0.5, 0.125, 0.125]), 0.7)
      tensor([0.2500, 0.5000, 0.0000, 0.0000])

    Reference: Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1.
    """
    if top_p >= 1:
        return probabilities
    sorted_, order = torch.sort(probabilities, descending=True, stable=True)
    before = sorted_.cumsum(0) - sorted_
    return torch.zeros_like(probabilities).scatter(0, order, sorted_.where(before < top_p, 0.0))


def next_tokens(
    model: PackedModel, adapter: NamedTensors, ids: list[int], temperature: float, seed: int, top_p: float = 1.0
) -> Iterator[int]:
    """The tokens that follow a text, without end.

    Args:
      model: the frozen base.
      adapter: float32.
      ids: of the text's start, one or more.
      temperature: divides the logits; 0 takes the most likely token each time.
      seed: 32 bits.
      top_p: of sampling; see `nucleus`.
    """
    adapters, past = model.adapters([adapter]), Past()
    generator = torch.Generator().manual_seed(seed)
    new = np.array(ids)
    while True:
        with torch.inference_mode():
            packed = model.pack([[new]], past.length)
            logits = model.next_token_logits(packed, model.hidden(packed, adapters, past=past))[0].cpu()
            if temperature > 0:
                likely = nucleus(torch.softmax(logits / temperature, 0), top_p)
                drawn = torch.multinomial(likely, 1, generator=generator)
                token = int(drawn[0])
            else:
                token = int(logits.argmax())
        yield token
        new = np.array([token])
