"""Adapters of three factors: the update of a module's frozen weight is s B R A, with a square R between B and A.

R is the tensor ".lora_R.weight", (r, r), beside the module's A (r, d_in) and B (d_out, r). PEFT knows no R: what it,
or a person, is to read has B R in place of B.
"""

from __future__ import annotations

import math

import numpy as np

from fedmq.recipe import Factors
from fedmq.tensors import NamedTensors

A, B, R = ".lora_A.weight", ".lora_B.weight", ".lora_R.weight"
_ENDS = {"A": A, "B": B, "R": R}


def is_of(name: str, factors: Factors) -> bool:
    """Whether a tensor of an adapter is one of these factors, or no LoRA factor at all.

    Args:
      name: as in a PEFT state dict.
      factors: "both" is every one.

    Example:
      >>> [is_of(f"h.0.{name}", "A") for name in ("lora_A.weight", "lora_B.weight", "lora_R.weight", "bias")]
      [True, False, False, True]
    """
    return factors == "both" or not name.endswith(tuple(end for one, end in _ENDS.items() if one != factors))


def of_factors(adapter: NamedTensors, factors: Factors) -> dict[str, np.ndarray]:
    """What of an adapter `is_of` them."""
    return {name: value for name, value in adapter.items() if is_of(name, factors)}


def folded(adapter: NamedTensors) -> NamedTensors:
    """The same model by two factors, as PEFT names them: B R in place of B, and no R.

    B R is summed in float64, in a fixed order whatever the number of threads, and has the dtype of B. An adapter
    without an R is given back as it is.

    Example:
      >>> a, b, r = np.ones((2, 3)), np.ones((1, 2)), np.diag([2.0, 5.0])
      >>> folded({"m.lora_A.weight": a, "m.lora_B.weight": b, "m.lora_R.weight": r})["m.lora_B.weight"]
      array([[2., 5.]])
    """
    cores = {name.removesuffix(R): value for name, value in adapter.items() if name.endswith(R)}
    if not cores:
        return adapter
    found = {name: value for name, value in adapter.items() if not name.endswith(R)}
    for module, core in cores.items():
        b = found[module + B]
        # Not a matrix product of the library's, whose last digits depend on its threads.
        found[module + B] = np.einsum("or,rs->os", b, core, dtype=np.float64).astype(b.dtype)
    return found


def rebased(adapter: NamedTensors, gain: float = 1.0) -> dict[str, np.ndarray]:
    """The same model in the basis of its singular vectors: with B R A = U S V^T, B is c U, A is V^T and R is S / c.

    c = gain (d_out / (3 r))^1/2. With gain 1 a step of Adam, which moves each number by about the learning rate, moves
    the weights by R as far as by B beside an A as peft makes it: B has d_out r numbers, R has r^2, and the rows of
    that A are of length 3^-1/2.

    U has orthonormal columns and V^T orthonormal rows, also those that belong to singular values of 0, which the QR
    decompositions of B and of A^T complete. A side below r has room for so many only: the columns of U (or rows of
    V^T) beyond are 0, and so are their rows (columns) of R, for good, since these have no gradient.

    Args:
      adapter: float32; each B with its R and A. Other tensors stay as they are.
      gain: > 0; by what Adam's learning rate is as good as multiplied.

    Returns:
      float32. B R A is what it was, but for rounding.

    Example:
      >>> eye = np.eye(3, dtype=np.float32)
      >>> found = rebased({"m.lora_A.weight": eye, "m.lora_B.weight": eye * 3, "m.lora_R.weight": eye}, 3**0.5)
      >>> np.diag(found["m.lora_R.weight"])
      array([3., 3., 3.], dtype=float32)

    Reference:
      Singhal et al. 2025, Fed-SB (arXiv 2502.15436), and LoRA-SB (arXiv 2411.19557), whose R begins with the singular
      values of its first update; there c = 1, and R has a learning rate of its own.
    """
    found = dict(adapter)
    for module in (name.removesuffix(R) for name in adapter if name.endswith(R)):
        a, b, core = (adapter[module + end].astype(np.float64) for end in (A, B, R))
        q_b, r_b = np.linalg.qr(b)
        q_a, r_a = np.linalg.qr(a.T)
        u, s, vt = np.linalg.svd(r_b @ core @ r_a.T)
        scale = gain * math.sqrt(len(b) / (3 * len(core)))
        new_a, new_b, new_core = np.zeros_like(a), np.zeros_like(b), np.zeros_like(core)
        new_b[:, : len(u)], new_a[: len(vt)] = scale * (q_b @ u), vt @ q_a.T
        new_core[range(len(s)), range(len(s))] = s / scale
        parts = ((module + A, new_a), (module + B, new_b), (module + R, new_core))
        found |= {name: value.astype(np.float32) for name, value in parts}
    return found
