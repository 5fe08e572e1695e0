"""What of an adapter a client has and sends (`fedmq.recipe.Part`), and how an update of that part travels.

Both ends know the part, so nothing of an update says which it is: what is in it is exactly that, or it is refused.
The rest is not the client's to move. A frozen factor is that of the adapter that the training started from; rows of A
and columns of B beyond a client's rank are 0.
"""

from __future__ import annotations

import numpy as np

from fedmq.algorithms.lora_core import A, B, is_of
from fedmq.codec.update import UpdateCodec
from fedmq.recipe import Part
from fedmq.tensors import NamedTensors


def start(part: Part, adapter: NamedTensors) -> NamedTensors:
    """What the client trains from: the adapter, with 0 in rows of A and columns of B from `part.rank` on.

    There both factors have no gradient, since each one's is a product with the other, so that they stay 0, under
    weight decay, too, and the engines need not know of ranks.

    Example:
      >>> adapter = {"m.lora_A.weight": np.array([[1.0], [2.0]]), "m.lora_B.weight": np.array([[3.0, 4.0]])}
      >>> {name: value.tolist() for name, value in start(Part("both", 1), adapter).items()}
      {'m.lora_A.weight': [[1.0], [0.0]], 'm.lora_B.weight': [[3.0, 0.0]]}
    """
    if part.rank is None:
        return adapter
    return {name: _padded(_cut(part, name, value), value) for name, value in adapter.items()}


def of_part(codec: UpdateCodec, part: Part) -> UpdateCodec:
    """The same codec for updates of which only a part travels.

    What is remembered is of the client's rank and of all its tensors: that of those which a round does not send waits.

    Args:
      codec: of whole adapters.
      part: the tensors and their size; its `decode` refuses other ones (SCHEMA), whatever the codec.

    Example:
      >>> from fedmq.codec.update import update_codec
      >>> from fedmq.recipe import CodecSpec
      >>> codec = of_part(update_codec(CodecSpec("fp32", None, None, None)), Part("B", None))
      >>> base = {"m.lora_A.weight": np.ones((1, 1), np.float32), "m.lora_B.weight": np.zeros((1, 1), np.float32)}
      >>> content, _ = codec.encode({name: value + 5 for name, value in base.items()}, base, {})
      >>> {name: value.tolist() for name, value in codec.decode(content, base).items()}
      {'m.lora_A.weight': [[1.0]], 'm.lora_B.weight': [[5.0]]}
    """
    if part == Part("both", None):
        return codec

    def init(base: NamedTensors) -> NamedTensors:
        return codec.init({name: _cut(part, name, value) for name, value in base.items()})

    def encode(local: NamedTensors, base: NamedTensors, state: NamedTensors) -> tuple[bytes, NamedTensors]:
        own = {name: value for name, value in state.items() if is_of(name, part.sent)}
        content, after = codec.encode(_taken(part, local), _taken(part, base), own)
        return content, {**state, **after}

    def decode(content: bytes, base: NamedTensors) -> dict[str, np.ndarray]:
        sent, rest = codec.decode(content, _taken(part, base)), start(part, base)
        return {name: _padded(sent[name], rest[name]) if name in sent else rest[name] for name in sorted(base)}

    return UpdateCodec(False, init, encode, decode)


def _taken(part: Part, adapter: NamedTensors) -> dict[str, np.ndarray]:
    return {name: _cut(part, name, value) for name, value in adapter.items() if is_of(name, part.sent)}


def _cut(part: Part, name: str, value: np.ndarray) -> np.ndarray:
    if name.endswith(A):
        return value[: part.rank]
    return value[:, : part.rank] if name.endswith(B) else value


def _padded(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The value, with zeros where `like` is larger."""
    return np.pad(value, [(0, n - m) for n, m in zip(like.shape, value.shape, strict=True)])
