"""Packing: every token once, every target once, attention's slots there and back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmq.learning.batching import IGNORED, collate
from fedmq.learning.fast.packed import pack

a_text = st.lists(st.integers(0, 399), min_size=1, max_size=12).map(np.array)
groups = st.lists(st.lists(a_text, max_size=5), min_size=1, max_size=4).filter(any)


@given(groups)
def test_tokens_targets_and_bounds(clients: list[list[np.ndarray]]) -> None:
    packed = pack(clients)
    texts = [text for client in clients for text in client]
    assert packed.ids.tolist() == np.concatenate(texts).tolist()
    assert packed.positions.tolist() == [i for text in texts for i in range(len(text))]
    assert packed.lengths == tuple(len(text) for text in texts)
    assert packed.targets.tolist() == [int(token) for text in texts for token in text[1:]]
    assert packed.ids[packed.rows + 1].tolist() == packed.targets.tolist()
    for k, client in enumerate(clients):
        first, last = packed.text_bounds[k : k + 2]
        assert packed.lengths[first:last] == tuple(len(text) for text in client)
    for per_client, bounds in (
        ([sum(map(len, client)) for client in clients], packed.bounds),
        ([sum(len(text) - 1 for text in client) for client in clients], packed.target_bounds),
    ):
        assert bounds[0] == 0 and per_client == [end - start for start, end in pairwise(bounds)]


@given(groups)
def test_slots_hold_texts_of_like_length_and_nothing_of_others(clients: list[list[np.ndarray]]) -> None:
    packed = pack(clients)
    assert sorted(text for bucket in packed.buckets for text in bucket) == list(range(len(packed.lengths)))
    starts = np.cumsum([0, *packed.lengths])
    slots = packed.spread.split([len(bucket) * packed.lengths[bucket[0]] for bucket in packed.buckets])
    for bucket, part in zip(packed.buckets, slots, strict=True):
        longest = packed.lengths[bucket[0]]
        for text, row in zip(bucket, part.reshape(-1, longest).tolist(), strict=True):
            length = packed.lengths[text]
            assert length >= longest / 2
            own = range(starts[text], starts[text + 1])
            assert row[:length] == list(own)
            assert set(row[length:]) <= set(own), "what is no number in one text would spread over padding to others"
    assert torch.equal(packed.spread[packed.gather], torch.arange(len(packed.ids)))
    real = ~packed.padding[:, 0]
    assert int(real.sum()) == len(packed.ids) and bool(real[packed.gather].all())


@given(groups.filter(lambda clients: len(clients) == 1))
def test_the_targets_are_those_of_the_padded_batch(clients: list[list[np.ndarray]]) -> None:
    labels = collate(clients[0])["labels"]
    assert sorted(pack(clients).targets.tolist()) == sorted(labels[labels != IGNORED].tolist())


def test_positions_go_on_where_the_text_was_left() -> None:
    assert pack([[np.array([5, 6])]], first_position=7).positions.tolist() == [7, 8]
