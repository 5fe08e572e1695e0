"""Generation, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedmq.learning.fast.forward import Past
from fedmq.learning.fast.model import PackedModel
from fedmq.tensors import NamedTensors


def next_tokens(
    model: PackedModel, adapter: NamedTensors, ids: list[int], temperature: float, seed: int
) -> Iterator[int]:
    """The tokens that follow a text, without end.

    Args:
      model: the frozen base.
      adapter: float32.
      ids: of the text's start, one or more.
      temperature: divides the logits; 0 takes the most likely token each time.
      seed: 32 bits.
    """
    adapters, past = model.adapters([adapter]), Past()
    generator = torch.Generator().manual_seed(seed)
    new = np.array(ids)
    while True:
        with torch.inference_mode():
            packed = model.pack([[new]], past.length)
            logits = model.next_token_logits(packed, model.hidden(packed, adapters, past=past))[0].cpu()
            if temperature > 0:
                drawn = torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator)
                token = int(drawn[0])
            else:
                token = int(logits.argmax())
        yield token
        new = np.array([token])
