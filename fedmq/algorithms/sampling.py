"""Which clients take part in a round. p_k is the share of client k in the weights of all, m the number drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from fedmq.algorithms.candidates import Candidate, Draw, Sampler, Selection, require_enough
from fedmq.algorithms.sampling_by_loss import oort, power_of_choice


def uniform() -> Sampler:
    """Every set of m clients is equally likely.

    Example:
      >>> import numpy as np
      >>> pool = [Candidate(name) for name in "abc"]
      >>> uniform()(pool, Draw(1, 2, np.random.default_rng(0)))
      ['b', 'c']
    """

    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        require_enough(candidates, draw.num_clients)
        chosen = draw.rng.choice(len(candidates), size=draw.num_clients, replace=False)
        return [candidates[i].client_id for i in sorted(chosen)]

    return choose


def round_robin() -> Sampler:
    """In turn, without chance: those that were not drawn for the longest time; where that is equal, the time before.

    A round that is drawn anew goes on behind those that were drawn for it before.

    Example:
      >>> import numpy as np
      >>> pool = [Candidate("a", selected=(2, 1)), Candidate("b", selected=(1,)), Candidate("c", selected=(2,))]
      >>> round_robin()(pool, Draw(3, 2, np.random.default_rng(0)))
      ['b', 'c']
    """

    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        require_enough(candidates, draw.num_clients)
        waiting = sorted(candidates, key=lambda one: (one.selected, one.client_id))
        start = draw.attempt * draw.num_clients
        return [waiting[(start + i) % len(waiting)].client_id for i in range(draw.num_clients)]

    return choose


def weighted() -> Sampler:
    """Without replacement, with the probability of each in proportion to its weight; its weight is not used again.

    Client k is drawn with probability pi_k = min(1, lam w_k), lam such that these sum to m, and counts w_k / pi_k:
    one that is drawn by chance 1 / lam, as every other, one that is too large for that (m p_k > 1) is drawn always
    and counts w_k. So the mean is unbiased, E[sum_drawn (w_k / pi_k) D_k] = sum_all w_k D_k, and the weights of any
    draw sum to those of all clients. Systematic sampling of the clients in random order gives these probabilities
    exactly.

    Reference:
      Horvitz, Thompson 1952, A Generalization of Sampling Without Replacement; Madow 1949, On the Theory of
      Systematic Sampling, II.

    Example:
      >>> import numpy as np
      >>> pool = [Candidate("a", weight=60.0), Candidate("b", weight=10.0), Candidate("c", weight=10.0)]
      >>> weighted()(pool, Draw(1, 2, np.random.default_rng(0)))
      {'a': 60.0, 'c': 20.0}
    """

    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        require_enough(candidates, draw.num_clients)
        order = draw.rng.permutation(len(candidates))
        weights = [Fraction(candidates[i].weight) for i in order]
        found = systematic(weights, draw.num_clients, Fraction(draw.rng.random()))
        counts = {candidates[order[i]].client_id: float(weight) for i, weight in found.items()}
        return dict(sorted(counts.items()))

    return choose


BY_NAME: Mapping[str, Callable[..., Sampler]] = {
    "uniform": uniform,
    "weighted": weighted,
    "round_robin": round_robin,
    "power_of_choice": power_of_choice,
    "oort": oort,
}


def systematic(weights: Sequence[Fraction], count: int, start: Fraction) -> dict[int, Fraction]:
    """Draw `count` positions, with probabilities in proportion to the weights or 1; with each, weight / probability.

    The weights of those that are not drawn for certain lie end to end on a line, which is cut into equal steps; whoever
    lies at `start` of a step is drawn. Exact: of every `start` in [0, 1) just the share pi_k finds client k.

    Args:
      weights: all > 0.
      count: 1 <= count <= len(weights).
      start: in [0, 1), uniform.

    Example:
      >>> halves = systematic([Fraction(1), Fraction(2), Fraction(1)], 2, Fraction(1, 4))
      >>> {position: str(weight) for position, weight in halves.items()}
      {1: '2', 0: '2'}
    """
    certain: dict[int, Fraction] = {}
    rest = sum(weights, Fraction(0))
    for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
        # With equality too: a step's length then, it would be found always.
        if len(certain) == count or weights[i] * (count - len(certain)) < rest:
            break
        certain[i], rest = weights[i], rest - weights[i]
    left = count - len(certain)
    if not left:
        return certain
    step = rest / left
    found, at, mark = dict(certain), Fraction(0), start * step
    for i, weight in enumerate(weights):
        if i in certain:
            continue
        at += weight
        if at > mark:
            found[i], mark = step, mark + step
    return found
