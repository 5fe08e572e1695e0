"""Batches: labels, padding, order."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmq.learning.batching import IGNORED, SeededOrder, TextDataset, batches_by_length, collate, lengths, token_nll

EOS = 3


def test_eos_is_a_target_and_padding_and_first_tokens_are_not() -> None:
    batch = collate([np.array([5, 6, EOS], np.uint16), np.array([7, EOS], np.uint16), np.array([EOS], np.uint16)])
    assert batch["labels"].tolist() == [[IGNORED, 6, EOS], [IGNORED, EOS, IGNORED], [IGNORED] * 3]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert all(value.dtype == torch.int64 for value in batch.values())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_labels_count_is_targets_count(sizes: list[int]) -> None:
    labels = collate([np.full(size, EOS) for size in sizes])["labels"]
    expected = sum(size - 1 for size in sizes)
    assert int((labels != IGNORED).sum()) == int((labels[:, 1:] != IGNORED).sum()) == expected


def test_only_targets_have_a_gradient() -> None:
    batch = collate([np.array([1, 2, EOS]), np.array([4, EOS])])
    logits = torch.zeros(2, 3, 8, requires_grad=True)
    token_nll(logits, batch["labels"]).sum().backward()
    assert logits.grad.abs().sum(-1).ne(0).tolist() == [[True, True, False], [True, False, False]]
    assert logits.grad[1, 0].argmin() == EOS  # the EOS is pushed up


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_batches_by_length_hold_each_scorable_text_once(sizes: list[int], batch_size: int, max_tokens: int) -> None:
    batches = batches_by_length(np.array(sizes, np.int64), batch_size, max_tokens)
    assert sorted(int(i) for batch in batches for i in batch) == [i for i, size in enumerate(sizes) if size >= 2]
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= max_tokens


def test_order_is_seeded_and_new_in_each_epoch() -> None:
    order, same = SeededOrder(50, np.random.default_rng(1)), SeededOrder(50, np.random.default_rng(1))
    first = list(order)
    assert first == list(same) and sorted(first) == list(range(50)) and first != list(range(50))
    assert list(order) != first
    assert list(SeededOrder(3, None)) == [0, 1, 2]


def test_dataset_takes_a_subset() -> None:
    texts = [np.array([i, EOS]) for i in range(5)]
    data = TextDataset(texts, np.array([4, 1]))
    assert [data[i].tolist() for i in range(len(data))] == [[4, EOS], [1, EOS]]
    assert len(TextDataset(texts)) == 5
    assert lengths(texts).tolist() == [2] * 5
