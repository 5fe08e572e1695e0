"""How much one client's update counts in the mean."""

from __future__ import annotations


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
