"""Randomness by derivation: every draw has a name, no generator is shared, none is global."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, round: int = 0, client: str = "") -> int:
    """A 32-bit seed that depends on all four arguments and on nothing else.

    The first 4 bytes, little-endian, of SHA-256 over the four, so that which worker trains a
    client, and in which order, cannot change a result.

    Example:
      >>> derive_seed(42, "select", 1) == derive_seed(42, "select", 1)
      True
      >>> derive_seed(42, "select", 1) == derive_seed(42, "select", 2)
      False
    """
    return int.from_bytes(_digest(seed, purpose, round, client)[:4], "little")


def derive(seed: int, purpose: str, round: int = 0, client: str = "") -> np.random.Generator:
    """A numpy generator (PCG64) for one purpose, round and client.

    Example:
      >>> a, b = derive(42, "select", 1), derive(42, "select", 1)
      >>> bool((a.permutation(5) == b.permutation(5)).all())
      True
    """
    return np.random.default_rng(int.from_bytes(_digest(seed, purpose, round, client), "little"))


def _digest(seed: int, purpose: str, round: int, client: str) -> bytes:
    # repr of a tuple of int and str is unambiguous: no two argument lists give the same text.
    return hashlib.sha256(repr((int(seed), purpose, int(round), client)).encode()).digest()
