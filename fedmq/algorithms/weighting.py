"""How much one client's update counts in the mean."""

from __future__ import annotations

from collections.abc import Callable


def by_examples(num_examples: int, num_tokens: int) -> float:
    """n_k, the number of training examples: FedAvg as published (arXiv 1602.05629).

    Example:
      >>> by_examples(num_examples=8, num_tokens=200)
      8.0
    """
    return float(num_examples)


def by_tokens(num_examples: int, num_tokens: int) -> float:
    """The number of targets seen: exact for losses that are means over tokens.

    Example:
      >>> by_tokens(num_examples=8, num_tokens=200)
      200.0
    """
    return float(num_tokens)


def uniform(num_examples: int, num_tokens: int) -> float:
    """1: every client counts the same, whatever it claims to hold.

    Example:
      >>> uniform(num_examples=8, num_tokens=200)
      1.0
    """
    return 1.0


def capped(rule: Callable[[int, int], float], max_examples: int | None) -> Callable[[int, int], float]:
    """`rule`, under which no client weighs more than with `max_examples` examples; its targets count in proportion.

    Args:
      rule: (num_examples, num_tokens) -> weight.
      max_examples: None caps nothing.

    Example:
      >>> rule = capped(by_tokens, 100)
      >>> rule(50, 1000), rule(10**7, 2 * 10**8)
      (1000.0, 2000.0)
    """
    if max_examples is None:
        return rule
    most = max_examples

    def at_most(num_examples: int, num_tokens: int) -> float:
        if num_examples <= most:
            return rule(num_examples, num_tokens)
        return rule(most, max(1, num_tokens * most // num_examples))

    return at_most
