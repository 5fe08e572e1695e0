"""Named tensors: the algebra of adapters, on numpy, without a framework.

An adapter is a mapping from the names of a PEFT state dict to arrays. All functions are pure;
two mappings combine only when their names and shapes are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from fedmq.errors import LocalProtocolError

NamedTensors = Mapping[str, np.ndarray]
#: name -> (dtype name as in numpy, shape)
Spec = dict[str, tuple[str, tuple[int, ...]]]


def spec(tensors: NamedTensors) -> Spec:
    """Names, dtypes and shapes, sorted by name.

    Example:
      >>> spec({"a": np.zeros((2, 3), np.float32)})
      {'a': ('float32', (2, 3))}
    """
    return {name: (tensors[name].dtype.name, tensors[name].shape) for name in sorted(tensors)}


class Difference(Mapping[str, np.ndarray]):
    """a - b in float64, each tensor made anew whenever it is asked for: no more than one need be in memory.

    Args:
      a, b: tensors of the same names and shapes, which are not to change any more.

    Raises:
      LocalProtocolError: they are not.

    Example:
      >>> Difference({"w": np.array([3.0])}, {"w": np.array([1.0])})["w"]
      array([2.])
    """

    def __init__(self, a: NamedTensors, b: NamedTensors) -> None:
        require_same_shapes(a, b)
        self.a, self.b = a, b

    def __getitem__(self, name: str) -> np.ndarray:
        # Copied and then subtracted in place: numpy converts within a subtraction in small pieces, which is slower.
        found = self.a[name].astype(np.float64)
        found -= self.b[name]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.a)

    def __len__(self) -> int:
        return len(self.a)


def require_same_shapes(a: NamedTensors, b: NamedTensors) -> None:
    """Raise LocalProtocolError that names the first difference in names or shapes."""
    if isinstance(b, Difference):  # it has the shapes of what it is made of
        b = b.a
    if a.keys() != b.keys():
        raise LocalProtocolError(f"tensors differ in names: {sorted(a.keys() ^ b.keys())[:3]}")
    for name in a:
        if a[name].shape != b[name].shape:
            raise LocalProtocolError(f"tensor {name}: shape {a[name].shape} against {b[name].shape}")


def zeros_like(tensors: NamedTensors, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Zeros of the same names and shapes, parts of one array; float64 by default, for sums.

    One, because the many small ones of an adapter go back to the system when they are freed: to be given them anew
    costs more than adding a few updates.
    """
    zeros: np.ndarray = np.zeros(sum(value.size for value in tensors.values()), dtype)
    found, start = {}, 0
    for name, value in tensors.items():
        found[name] = zeros[start : start + value.size].reshape(value.shape)
        start += value.size
    return found


def subtract(a: NamedTensors, b: NamedTensors) -> dict[str, np.ndarray]:
    """a - b in float64, where the difference of two float32 of like size is exact."""
    return dict(Difference(a, b))


def add(a: NamedTensors, b: NamedTensors) -> dict[str, np.ndarray]:
    """a + b in float64."""
    require_same_shapes(a, b)
    return {name: np.add(a[name], b[name], dtype=np.float64) for name in a}


def scale(tensors: NamedTensors, factor: float) -> dict[str, np.ndarray]:
    """factor * tensors in float64."""
    return {name: value.astype(np.float64) * factor for name, value in tensors.items()}


def astype(tensors: NamedTensors, dtype: type) -> dict[str, np.ndarray]:
    """The same values in another dtype (rounded to nearest even)."""
    return {name: value.astype(dtype) for name, value in tensors.items()}


def l2_norm(tensors: NamedTensors) -> float:
    """Euclidean norm over all entries, summed in float64 in the order of the names.

    Example:
      >>> l2_norm({"a": np.array([3.0]), "b": np.array([4.0])})
      5.0
    """
    total = sum(float(np.square(tensors[name], dtype=np.float64).sum()) for name in sorted(tensors))
    return float(np.sqrt(total))


def digest(tensors: NamedTensors) -> str:
    """SHA-256, in hex, over names, dtypes, shapes and little-endian bytes, in name order."""
    sha = hashlib.sha256()
    for name, (dtype, shape) in spec(tensors).items():
        sha.update(repr((name, dtype, shape)).encode())
        value = tensors[name]
        sha.update(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False)).tobytes())
    return sha.hexdigest()
