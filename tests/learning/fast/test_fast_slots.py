"""Attention's places: every head of every row once, there and back, and nothing of others beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmq.learning.fast.packed import pack
from fedmq.learning.fast.slots import slots

LENGTHS = (5, 12, 1, 7, 11, 3, 30)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_each_bucket_holds_its_texts_heads_in_order(heads: int, key_heads: int) -> None:
    packed = pack([[np.arange(length) for length in LENGTHS]])
    places = slots(packed, heads, key_heads)
    per_row, starts = heads + 2 * key_heads, np.cumsum([0, *LENGTHS])
    # One number for each row of each head says where it comes from.
    qkv = torch.arange(sum(LENGTHS) * per_row)[:, None]
    for bucket, parts in zip(packed.buckets, places.parts(qkv[places.take]), strict=True):
        longest = packed.lengths[bucket[0]]
        offset = 0
        for part, count in zip(parts, (heads, key_heads, key_heads), strict=True):
            for text, per_head in zip(bucket, part.reshape(len(bucket), count, longest), strict=True):
                for head, found in enumerate(per_head.tolist()):
                    length = packed.lengths[text]
                    own = [int(row) * per_row + offset + head for row in range(starts[text], starts[text + 1])]
                    assert found[:length] == own
                    assert set(found[length:]) <= set(own), "what is no number in one text would reach others"
            offset += count


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_there_and_back(heads: int, key_heads: int) -> None:
    n = sum(LENGTHS)
    packed = pack([[np.arange(length) for length in LENGTHS[:2]], [np.arange(length) for length in LENGTHS[2:]]])
    places = slots(packed, heads, key_heads)
    assert torch.equal(places.take[places.taken], torch.arange(n * (heads + 2 * key_heads)))
    assert torch.equal(places.give[places.given], torch.arange(n * heads))
    real = ~places.padding[:, 0]
    assert int(real.sum()) == n * heads and bool(real[places.given].all())
    shapes = [tuple(part.shape) for part in places.outputs(places.give[:, None])]
    assert shapes == [tuple(q.shape) for q, _, _ in places.parts(places.take[:, None])]
