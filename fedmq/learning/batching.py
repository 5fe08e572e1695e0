"""Texts to padded batches: what counts as a target, and in which order the texts come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fedmq.rng import derive

#: The label of a position that is no target; cross_entropy's default.
IGNORED = -100


class TextDataset(torch.utils.data.Dataset[np.ndarray]):
    """Some of the texts, by index; a text is read only when it is asked for.

    Args:
      texts: 1-D integer arrays of token ids, EOS last; a memory-mapped shard will do.
      indices: which of them, in which order; None is all.
    """

    def __init__(self, texts: Sequence[np.ndarray], indices: np.ndarray | None = None) -> None:
        self.texts = texts
        self.indices = np.arange(len(texts)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.texts[int(self.indices[index])]


class SeededOrder(torch.utils.data.Sampler[int]):
    """A new permutation for each epoch, drawn from one numpy generator; file order without one."""

    def __init__(self, size: int, generator: np.random.Generator | None) -> None:
        self.size, self.generator = size, generator

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.size) if self.generator is None else self.generator.permutation(self.size)
        return iter(order.tolist())


def collate(texts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """One batch, padded on the right to its longest text.

    The label of padding is `IGNORED`, and so is the first label of each text: nothing predicts it,
    and whoever counts labels before the shift would divide by too many.

    Returns:
      input_ids, attention_mask and labels, each int64 of shape (texts, longest).

    Example:
      >>> batch = collate([np.array([5, 6, 7]), np.array([8, 7])])
      >>> batch["input_ids"].tolist(), batch["labels"].tolist()
      ([[5, 6, 7], [8, 7, 0]], [[-100, 6, 7], [-100, 7, -100]])
    """
    shape = (len(texts), max(len(text) for text in texts))
    input_ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, text in enumerate(texts):
        input_ids[row, : len(text)] = text
        labels[row, 1 : len(text)] = text[1:]
        mask[row, : len(text)] = 1
    arrays = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def lengths(texts: Sequence[np.ndarray]) -> np.ndarray:
    """Number of tokens of each text: int64, one per text; a text of n tokens has n - 1 targets."""
    known = getattr(texts, "lengths", None)  # a shard's, without a look at the texts
    if known is not None:
        return known
    return np.fromiter((len(texts[i]) for i in range(len(texts))), np.int64, len(texts))


def usable_texts(sizes: np.ndarray, limit: int | None, subset_seed: int) -> np.ndarray:
    """Indices, ascending, of the texts to train on.

    Args:
      sizes: tokens of each text; one of a single token has nothing to predict.
      limit: at most so many, drawn by `subset_seed`; None is all.

    Example:
      >>> usable_texts(np.array([5, 1, 3]), None, 0).tolist()
      [0, 2]
    """
    usable = np.flatnonzero(sizes >= 2)
    if limit is None:
        return usable
    return usable[np.sort(derive(subset_seed, "subset").permutation(len(usable))[:limit])]


def batches_by_length(sizes: np.ndarray, batch_size: int, max_tokens: int) -> list[np.ndarray]:
    """Indices of texts of like length, longest first, for evaluation.

    Args:
      sizes: tokens of each text; those with less than two have no target and are left out.
      batch_size: texts in a batch, at most.
      max_tokens: texts times the longest of them, at most, unless one text alone is longer.

    Example:
      >>> [batch.tolist() for batch in batches_by_length(np.array([3, 9, 1, 4, 8]), 2, 16)]
      [[1], [4, 3], [0]]
    """
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= 2]
    batches, start = [], 0
    while start < len(order):
        count = max(1, min(batch_size, max_tokens // int(sizes[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target, in nats; 0 where there is no target.

    Args:
      logits: (texts, length, vocabulary), any float dtype.
      labels: (texts, length), not shifted, `IGNORED` where there is no target.

    Returns:
      float32 of shape (texts * length,).
    """
    # The labels move, not the logits: slicing those would copy the largest tensor of the step.
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), shifted.flatten(), ignore_index=IGNORED, reduction="none"
    )
