"""Packing: every token once, every target once, texts of like length together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
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
def test_buckets_are_of_like_length(clients: list[list[np.ndarray]]) -> None:
    packed = pack(clients)
    assert sorted(text for bucket in packed.buckets for text in bucket) == list(range(len(packed.lengths)))
    for bucket in packed.buckets:
        longest, *lengths = (packed.lengths[text] for text in bucket)
        assert all(longest / 2 <= length <= longest for length in lengths)


@given(groups.filter(lambda clients: len(clients) == 1))
def test_the_targets_are_those_of_the_padded_batch(clients: list[list[np.ndarray]]) -> None:
    labels = collate(clients[0])["labels"]
    assert sorted(pack(clients).targets.tolist()) == sorted(labels[labels != IGNORED].tolist())


def test_positions_go_on_where_the_text_was_left() -> None:
    assert pack([[np.array([5, 6])]], first_position=7).positions.tolist() == [7, 8]
