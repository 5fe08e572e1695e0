"""Selection by what clients reported of their last training. It asks them for nothing more, so it costs no byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedmq.algorithms.candidates import Candidate, Draw, Sampler, Selection, require_enough
from fedmq.algorithms.options import require, whole

#: nats per target. A loss is a worker's word: beyond this it is no loss, and must not make sums infinite.
_MAX_LOSS = 1e6


def power_of_choice(d: float | None = None) -> Sampler:
    """Of d candidates, drawn in proportion to their weights, the m with the largest loss; each counts the same.

    The variant rpow-d: the loss is that of a client's last training, however long ago, and infinite before its first.
    Clients with large losses count more than their share, so the mean is biased, on purpose.

    Args:
      d: m <= d; None = 2 m. As many as there are clients makes it the plain m largest losses.

    Reference:
      Cho, Wang, Joshi 2020, Client Selection in Federated Learning (arXiv 2010.01243), section 3.

    Example:
      >>> pool = [Candidate(name, train_loss=loss) for name, loss in zip("abcd", [1.0, 3.0, None, 2.0])]
      >>> power_of_choice(d=4)(pool, Draw(5, 2, np.random.default_rng(0)))
      {'b': 1.0, 'c': 1.0}
    """
    asked = None if d is None else whole("d", d, least=1)

    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        require_enough(candidates, draw.num_clients)
        number = 2 * draw.num_clients if asked is None else asked
        if number < draw.num_clients:
            raise ValueError(f"cannot choose {draw.num_clients} of d = {number} candidates")
        drawn = _in_proportion([one.weight for one in candidates], min(number, len(candidates)), draw.rng)
        # The order of the draw decides between equal losses, as in the first round.
        ranked = sorted((candidates[i] for i in drawn), key=lambda one: -_loss(one))
        return dict.fromkeys(sorted(one.client_id for one in ranked[: draw.num_clients]), 1.0)

    return choose


def oort(
    explore: float = 0.9,
    explore_decay: float = 0.98,
    explore_least: float = 0.2,
    cutoff: float = 0.95,
    clip: float = 0.95,
    time_exponent: float = 0.0,
    pace: float = 0.5,
) -> Sampler:
    """Clients of large utility, and some that have not been tried.

    Of m clients, eps m have never trained, uniformly, with eps = max(explore_least, explore * explore_decay^(R - 1))
    in round R. The others are drawn in proportion to their utility among those with at least `cutoff` of the
    smallest that would do (that of rank (1 - eps) m):

        U_k = (min(n_k F_k, c) / max_j min(n_j F_j, c) + sqrt(0.1 ln R / L_k)) * (T / t_k)^time_exponent if t_k > T

    n_k are the examples of k, F_k its last training loss, L_k the round of that, c the `clip` quantile of all n_j F_j,
    t_k the seconds of its last training, T their `pace` quantile. With time_exponent 0, the default, seconds play no
    part and a run can be repeated; above 0 they are of a clock, so that two runs of one config draw differently (a
    resumed run does not: its journal has them).

    The paper has the root mean square loss over a client's examples where this has the mean, which is what
    updates tell. It raises T when the utility falls, and leaves out whoever was drawn often; this does neither.

    Args:
      explore, explore_least, cutoff: in [0, 1].
      explore_decay, clip: in (0, 1].
      time_exponent: >= 0; 2 in the paper.
      pace: in (0, 1].

    Reference:
      Lai et al. 2021, Oort: Efficient Federated Learning via Guided Participant Selection (OSDI), Algorithm 1.

    Example:
      >>> known = dict(num_examples=10, last_trained=1)
      >>> pool = [Candidate("a", train_loss=4.0, **known), Candidate("b", train_loss=1.0, **known)]
      >>> oort()(pool, Draw(2, 1, np.random.default_rng(0)))
      ['a']
    """
    require("in [0, 1]", explore=explore, explore_least=explore_least, cutoff=cutoff)
    require("in (0, 1]", explore_decay=explore_decay, clip=clip, pace=pace)
    require(">= 0", time_exponent=time_exponent)

    def choose(candidates: Sequence[Candidate], draw: Draw) -> Selection:
        require_enough(candidates, draw.num_clients)
        tried = [one for one in candidates if one.last_trained]
        untried = [one for one in candidates if not one.last_trained]
        share = max(explore_least, explore * explore_decay ** (draw.round - 1))
        wanted = min(len(untried), round(share * draw.num_clients))
        old = min(len(tried), draw.num_clients - wanted)
        new = draw.rng.choice(len(untried), size=draw.num_clients - old, replace=False)
        chosen = [untried[i] for i in new]
        if old:
            utility = _utilities(tried, draw.round, clip, time_exponent, pace)
            enough = np.flatnonzero(utility >= cutoff * np.sort(utility)[-old])
            chosen += [tried[enough[i]] for i in _in_proportion(utility[enough], old, draw.rng)]
        return sorted(one.client_id for one in chosen)

    return choose


def _utilities(tried: Sequence[Candidate], round: int, clip: float, time_exponent: float, pace: float) -> np.ndarray:
    statistical = np.array([one.num_examples * _loss(one) for one in tried])
    statistical = np.minimum(statistical, np.quantile(statistical, clip))
    since = np.array([one.last_trained for one in tried])
    # Divided by the largest, or the second term would be lost beside thousands of examples.
    utility = statistical / max(statistical.max(), np.finfo(float).tiny) + np.sqrt(0.1 * math.log(round) / since)
    if time_exponent:
        seconds = np.array([one.train_seconds or 0.0 for one in tried])
        late = seconds > (preferred := np.quantile(seconds, pace))
        utility[late] *= (preferred / seconds[late]) ** time_exponent
    result: np.ndarray = utility
    return result


def _loss(one: Candidate) -> float:
    return math.inf if one.train_loss is None else min(max(one.train_loss, 0.0), _MAX_LOSS)


def _in_proportion(weights: Sequence[float] | np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Positions, drawn one after another without replacement, each time in proportion to the weights of the rest."""
    shares = np.asarray(weights, np.float64)
    return [int(i) for i in rng.choice(len(shares), size=count, replace=False, p=shares / shares.sum())]
