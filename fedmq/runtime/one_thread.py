"""Products of matrices at the coordinator: on one thread."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 - its BLAS must be loaded to be found
from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """In the block BLAS uses one thread.

    How a product is cut up between threads changes its last digits: a run resumed on a host with more cores would end
    with other bits. And threads that wait for each other are no help where workers keep all cores busy: the residual of
    ten clients took 12 s with two, 0.7 s with one.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
