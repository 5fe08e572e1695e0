"""Named tensors: the algebra of adapters, on numpy, without a framework.

An adapter is a mapping from the names of a PEFT state dict to arrays. All functions are pure;
two mappings combine only when their names and shapes are the same.
"""

from __future__ import annotations

import functools
import hashlib
import math
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


class Packed(Mapping[str, np.ndarray]):
    """Named tensors that lie in one array, by their names: what is done to every number alike is done to all at once.

    Attributes:
      array: all numbers, one-dimensional; the tensors are views of it.
      shapes: name -> shape, sorted by name.

    Example:
      >>> Packed(np.arange(5), {"a": (2, 2), "b": ()})
      {'a': array([[0, 1],
             [2, 3]]), 'b': array(4)}
    """

    def __init__(self, array: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.array, self.shapes = array, dict(sorted(shapes.items()))

    @functools.cached_property
    def _views(self) -> dict[str, np.ndarray]:
        found, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            found[name] = self.array[start:stop].reshape(shape)
            start = stop
        return found

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        """Put numbers in the place of a tensor's: `packed[name] += 1` does as it does with a dict of arrays."""
        self._views[name][...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        return repr(self._views)

    def __reduce__(self) -> tuple[type[Packed], tuple[np.ndarray, dict[str, tuple[int, ...]]]]:
        return Packed, (self.array, self.shapes)  # a copy makes views of its own array


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
    if isinstance(a, Packed) and isinstance(b, Packed) and a.shapes == b.shapes:
        return
    if a.keys() != b.keys():
        raise LocalProtocolError(f"tensors differ in names: {sorted(a.keys() ^ b.keys())[:3]}")
    for name in a:
        if a[name].shape != b[name].shape:
            raise LocalProtocolError(f"tensor {name}: shape {a[name].shape} against {b[name].shape}")


def zeros_like(tensors: NamedTensors, dtype: type = np.float64) -> Packed:
    """Zeros of the same names and shapes; float64 by default, for sums.

    Packed, because the many small arrays of an adapter go back to the system when they are freed: to be given them
    anew costs more than adding a few updates.
    """
    zeros = empty_like(tensors, dtype)
    zeros.array[:] = 0
    return zeros


def empty_like(tensors: NamedTensors, dtype: type = np.float64) -> Packed:
    """Numbers that are yet to be written, of the same names and shapes; float64 by default."""
    shapes = {name: value.shape for name, value in tensors.items()}
    return Packed(np.empty(sum(math.prod(shape) for shape in shapes.values()), dtype), shapes)


def packed(tensors: NamedTensors) -> Packed:
    """The same tensors, all of one dtype, packed: themselves, or a copy.

    Example:
      >>> packed({"b": np.zeros(2), "a": np.ones((1, 1))}).array
      array([1., 0., 0.])
    """
    if isinstance(tensors, Packed):
        return tensors
    shapes = {name: value.shape for name, value in tensors.items()}
    arrays = [tensors[name].ravel() for name in sorted(tensors)]
    return Packed(np.concatenate(arrays) if arrays else np.empty(0), shapes)


def side_by_side(*mappings: NamedTensors) -> Iterator[list[np.ndarray]]:
    """The same numbers of each mapping, one-dimensional: all at once where all are packed, else tensor by tensor.

    Args:
      mappings: of the same names and shapes.

    Example:
      >>> a, b = packed({"u": np.zeros(1), "v": np.ones(1)}), {"v": np.full(1, 2.0), "u": np.full(1, 3.0)}
      >>> list(side_by_side(a, a)), list(side_by_side(a, b))
      ([[array([0., 1.]), array([0., 1.])]], [[array([0.]), array([3.])], [array([1.]), array([2.])]])
    """
    flat = [each.array for each in mappings if isinstance(each, Packed)]
    if len(flat) == len(mappings):
        yield flat
    else:
        for name in mappings[0]:
            yield [each[name].reshape(-1) for each in mappings]


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
