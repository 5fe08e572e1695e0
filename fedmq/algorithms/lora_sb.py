"""Fed-SB: B and A come of two rounds, from then on only the small R between them is trained and sent."""

from __future__ import annotations

from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.lora_core import rebased
from fedmq.algorithms.lora_one_factor import one_factor
from fedmq.algorithms.options import require
from fedmq.recipe import Factors
from fedmq.tensors import NamedTensors

#: The round after which B and A are what they stay.
LAST_SKETCH = 2


def fed_sb(gain: float = 1.0) -> Aggregator:
    """Clients train B in round 1, A in round 2, and R alone from round 3 on: s B R A is linear in each, so no bias.

    R begins as the identity. With B = 0, as it is made, B's gradient is s G A^T, G that of the module's weight: round 1
    moves B into the range of the clients' mean G, as a random A shows it; and round 2, in which A's gradient is
    s B^T G, the rows of A into that of G^T. After round 2 the model is written in its own singular vectors
    (`rebased`): B = c U, A = V^T, R = S / c, which does not change it. From then on R' = sum_k p_k R_k, r^2 numbers
    a module each way, and B R' A = sum_k p_k B R_k A.

    Not as in the paper: there U and V are the first singular vectors of the mean of clients' gradients of whole
    batches (of their sign, as Adam's first step has it), d_out x d_in numbers a module that each would have to
    send. Here they are of two rounds of clients' training, in which nothing but factors is sent, and which lower the
    loss by themselves; R goes on from there (S), as in LoRA-SB; and c is not 1, so that one learning rate does for B, A
    and R.

    Args:
      gain: > 0; Adam's steps of R are as of a learning rate that many times as large.

    Example:
      >>> import numpy as np
      >>> rule, one = fed_sb(), np.eye(1, dtype=np.float32)
      >>> [rule.trained(round) for round in (1, 2, 3, 4)]
      ['B', 'A', 'R', 'R']
      >>> adapter = {"m.lora_A.weight": 2 * one, "m.lora_B.weight": 3 * one, "m.lora_R.weight": one}
      >>> rule.rebased(1, adapter) is None, rule.rebased(2, adapter)["m.lora_R.weight"]
      (True, array([[10.392304]], dtype=float32))

    Reference:
      Singhal et al. 2025, Fed-SB (arXiv 2502.15436). The sketch in two passes is as in randomized range finders:
      Halko et al. 2011 (arXiv 0909.4061), Algorithm 4.4, with local training in place of products with G.
    """

    require("> 0", gain=gain)

    def other_factors(round: int, adapter: NamedTensors) -> NamedTensors | None:
        return rebased(adapter, gain) if round == LAST_SKETCH else None

    return one_factor(_trained)._replace(rebased=other_factors, name=f"fed_sb with gain {gain:g}")


def _trained(round: int) -> Factors:
    return "B" if round < LAST_SKETCH else "A" if round == LAST_SKETCH else "R"
