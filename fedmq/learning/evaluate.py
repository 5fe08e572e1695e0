"""Evaluation: the token-weighted mean negative log-likelihood of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedmq.errors import DataError, LocalProtocolError
from fedmq.learning.batching import batches_by_length, collate, lengths, token_nll
from fedmq.learning.models import LanguageModel
from fedmq.tensors import NamedTensors

#: Tokens at a time without padding: enough for the matrix products, and what they leave fits into the cache.
_PACKED_TOKENS = 1024
_PACKED_TOKENS_ON_CARD = 16 * 1024
#: Engine "hf": logits in memory at once; 2**25 float32 are 128 MiB (and as much again inside the loss).
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
    adapter: NamedTensors | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score texts without dropout, in the precision of the model's engine (engine "hf": float32).

    Args:
      lm: base and adapter.
      texts: 1-D integer arrays of token ids, EOS last.
      batch_size: texts at a time, at most, where the engine pads; it changes the time, not the result.
      adapter: another one than that of `lm`; engine "fast" only.
      on_step: called with (batches done, batches in all).

    Raises:
      DataError: no text has a target.
    """
    if adapter is not None and lm.packed is None:
        raise LocalProtocolError('engine "hf" scores the adapter of its model only')
    sizes = lengths(texts)
    if not (sizes >= 2).any():
        raise DataError(f"nothing to evaluate: none of the {len(texts)} texts has two tokens or more")
    if lm.packed is not None:
        loss_sum = _packed(lm, texts, sizes, adapter, on_step)
    else:
        loss_sum = _padded(lm, texts, sizes, batch_size, on_step)
    return EvaluationResult(loss_sum, int((sizes[sizes >= 2] - 1).sum()), len(texts))


def _packed(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    sizes: np.ndarray,
    adapter: NamedTensors | None,
    on_step: Callable[[int, int], None] | None,
) -> float:
    model = lm.packed
    assert model is not None
    # Texts of like length together: less padding where attention needs some.
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= 2]
    most = _PACKED_TOKENS if model.device == "cpu" else _PACKED_TOKENS_ON_CARD
    batch_of = np.cumsum(sizes[order]) // most
    batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
    adapters = model.adapters([lm.get_adapter() if adapter is None else adapter])
    cache, loss_sum = lm.trunk(texts), 0.0
    with torch.inference_mode():
        for step, indices in enumerate(batches, 1):
            packed = model.pack([[texts[int(i)] for i in indices]])
            trunk = None
            if model.first_adapted > 0:
                trunk = model.trunk(packed) if cache is None else cache.rows(indices.tolist())
            losses = model.losses(packed, model.hidden(packed, adapters, trunk=trunk))
            loss_sum += float(losses.cpu().double().sum())
            if on_step is not None:
                on_step(step, len(batches))
    return loss_sum


def _padded(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    sizes: np.ndarray,
    batch_size: int,
    on_step: Callable[[int, int], None] | None,
) -> float:
    batches = batches_by_length(sizes, batch_size, _MAX_LOGITS // lm.model.config.vocab_size)
    loss_sum = 0.0
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
                if on_step is not None:
                    on_step(step, len(batches))
    finally:
        lm.model.train(was_training)
    return loss_sum
