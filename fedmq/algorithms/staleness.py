"""What an update is worth that was trained from an older version than the one that it is added to.

Asynchronous aggregation (FedBuff) adds to version t the mean of a buffer of K updates, each scaled by a discount s of
its staleness tau, the number of versions that were committed since its training began:

    x_{t+1} = step(x_t, sum_k w_k s(tau_k) D_k / sum_k w_k),    s(0) = 1

The sum is divided by all weights, not by the discounted ones: a buffer of stale updates moves the model less.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedmq.algorithms.options import one_of, require, whole

#: staleness, in versions, >= 0 -> factor in (0, 1]
Discount = Callable[[int], float]


def constant() -> Discount:
    """s = 1: an update is worth the same however old it is.

    Example:
      >>> constant()(7)
      1.0
    """
    return lambda staleness: 1.0


def polynomial(a: float = 0.5) -> Discount:
    """s = (1 + tau)^-a; with a = 0.5 it is FedBuff's.

    Args:
      a: >= 0; 0 is `constant`.

    Example:
      >>> [round(polynomial()(staleness), 6) for staleness in (0, 1, 3, 8, 15)]
      [1.0, 0.707107, 0.5, 0.333333, 0.25]

    Reference:
      Xie, Koyejo, Gupta 2019, FedAsync (arXiv 1903.03934); Nguyen et al. 2022, FedBuff (arXiv 2106.06639).
    """
    require(">= 0", a=a)
    return lambda staleness: float((1 + staleness) ** -a)


def hinge(a: float = 10.0, b: int = 4) -> Discount:
    """s = 1 up to a staleness of b, then 1 / (a (tau - b) + 1).

    Args:
      a: > 0, the slope beyond b.
      b: >= 0, whole: the staleness that costs nothing.

    Example:
      >>> [round(hinge(a=10, b=4)(staleness), 6) for staleness in (0, 4, 5, 6)]
      [1.0, 1.0, 0.090909, 0.047619]

    Reference:
      Xie, Koyejo, Gupta 2019, FedAsync (arXiv 1903.03934).
    """
    require("> 0", a=a)
    bend = whole("b", b, least=0)
    return lambda staleness: 1.0 if staleness <= bend else float(1 / (a * (staleness - bend) + 1))


BY_NAME: Mapping[str, Callable[..., Discount]] = {"constant": constant, "polynomial": polynomial, "hinge": hinge}


class Buffer(NamedTuple):
    """How an asynchronous run aggregates.

    Attributes:
      size: updates that make a version; None = half of the clients that train at a time, rounded up.
      max_staleness: an update that is older counts no more, and its training is stopped.
      discount: what one is worth that is not.
    """

    size: int | None
    max_staleness: int
    discount: Discount


def fedbuff(
    buffer_size: int | None = None,
    discount: str = "polynomial",
    a: float | None = None,
    b: int | None = None,
    max_staleness: int = 20,
) -> Buffer:
    """A buffer by its options; with `buffer_size` 1 each update makes a version, as in FedAsync.

    Args:
      buffer_size: >= 1.
      discount: "constant", "polynomial" or "hinge".
      a, b: of the discount; None = its own default.
      max_staleness: >= 0, in versions.

    Raises:
      ValueError: an option is out of range, or none of the discount's.

    Example:
      >>> fedbuff(4, "hinge", b=2).discount(2)
      1.0
    """
    one_of(BY_NAME, discount=discount)
    given = {name: value for name, value in (("a", a), ("b", b)) if value is not None}
    if unknown := given.keys() - inspect.signature(BY_NAME[discount]).parameters.keys():
        raise ValueError(f"discount {discount} has no option {', '.join(sorted(unknown))}")
    size = None if buffer_size is None else whole("buffer_size", buffer_size, least=1)
    return Buffer(size, whole("max_staleness", max_staleness, least=0), BY_NAME[discount](**given))
