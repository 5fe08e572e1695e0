"""Evaluation: the token-weighted mean negative log-likelihood of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedmq.errors import DataError
from fedmq.learning.batching import batches_by_length, collate, lengths, token_nll
from fedmq.learning.models import LanguageModel

#: Logits in memory at once, at most: 2**25 float32 are 128 MiB (and as much again inside the loss).
_MAX_LOGITS = 1 << 25


class EvaluationResult(NamedTuple):
    """Sums, so that results over clients add up exactly.

    Attributes:
      loss_sum: negative log-likelihood of all targets, in nats.
      num_tokens: number of targets: EOS included, padding and the first token of each text never.
      num_examples: number of texts.
    """

    loss_sum: float
    num_tokens: int
    num_examples: int

    @property
    def eval_loss(self) -> float:
        """Mean negative log-likelihood per target, in nats."""
        return self.loss_sum / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(eval_loss); 1e304 for all that is beyond: JSON knows no infinity."""
        return math.exp(min(self.eval_loss, 700.0))


def evaluate(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    *,
    batch_size: int,
    on_step: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score texts with the model as it is, in float32, without dropout.

    Args:
      lm: base and adapter.
      texts: 1-D integer arrays of token ids, EOS last.
      batch_size: texts at a time, at most; it changes the time, not the result.
      on_step: called with (batches done, batches in all).

    Raises:
      DataError: no text has a target.
    """
    batches = batches_by_length(lengths(texts), batch_size, _MAX_LOGITS // lm.model.config.vocab_size)
    if not batches:
        raise DataError(f"nothing to evaluate: none of the {len(texts)} texts has two tokens or more")
    loss_sum, num_tokens = 0.0, 0
    was_training = lm.model.training
    lm.model.eval()
    # In the middle of a training, the Trainer's mixed precision is wrapped around the model's own forward.
    forward = vars(lm.model).get("_original_forward", lm.model)
    try:
        with torch.inference_mode():
            for step, indices in enumerate(batches, 1):
                batch = {name: value.to(lm.device) for name, value in collate([texts[int(i)] for i in indices]).items()}
                labels = batch.pop("labels")
                nll = token_nll(forward(**batch, use_cache=False).logits, labels)
                loss_sum += float(nll.cpu().double().sum())
                num_tokens += int(sum(len(texts[int(i)]) - 1 for i in indices))
                if on_step is not None:
                    on_step(step, len(batches))
    finally:
        lm.model.train(was_training)
    return EvaluationResult(loss_sum, num_tokens, len(texts))
