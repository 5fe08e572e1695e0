"""Deltas for the tests of codecs, and the codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmq import build, tensors
from fedmq.codec.delta import Codec

#: every codec, with options that small tensors make something of
CODECS: dict[str, Codec] = {
    "fp32": build.codec("fp32"),
    "bf16": build.codec("bf16"),
    "fp16": build.codec("fp16"),
    "int8": build.codec("int8"),
    "int8 of 5": build.codec("int8", block=5),
    "int4": build.codec("int4"),
    "int4 of 3": build.codec("int4", block=3),
    "sign": build.codec("sign"),
    "topk": build.codec("topk"),
    "topk of 40 %": build.codec("topk", fraction=0.4),
    "topk of 1": build.codec("topk", fraction=1),
}
LOSSY = {
    name: build.codec(name, error_feedback=True, **options)
    for name, options in (("bf16", {}), ("fp16", {}), ("int8", {"block": 7}), ("int4", {"block": 7}), ("sign", {}))
} | {"topk": build.codec("topk", fraction=0.2)}

#: values that no codec has to clip
_VALUES = st.floats(-100, 100, width=32)
DELTAS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=20), elements=_VALUES).map(
    lambda first: {"b": first, "a": np.asarray(first.sum(), np.float32), "c": first[:0]}
)


def gaussian(seed: int = 0, size: int = 4096) -> dict[str, np.ndarray]:
    """Two tensors of unlike size, as A and B have it."""
    draw = np.random.default_rng(seed)
    return {
        "lora_A": draw.normal(scale=2e-4, size=(8, size // 8)).astype(np.float32),
        "lora_B": draw.normal(scale=1e-4, size=(size // 8, 8)).astype(np.float32),
    }


def spec(delta: tensors.NamedTensors) -> tensors.Spec:
    """Of the adapter that a delta is of."""
    return {name: ("float32", value.shape) for name, value in sorted(delta.items())}


def there_and_back(codec: Codec, delta: tensors.NamedTensors) -> dict[str, np.ndarray]:
    """What arrives of a client's first delta."""
    content, _ = codec.encode(delta, codec.init(delta))
    return codec.decode(content, spec(delta))


def relative_error(codec: Codec, delta: tensors.NamedTensors) -> float:
    """|sent - delta|^2 / |delta|^2."""
    lost: Any = tensors.subtract(there_and_back(codec, delta), delta)
    return (tensors.l2_norm(lost) / tensors.l2_norm(delta)) ** 2
