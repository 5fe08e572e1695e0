"""Libraries are loaded without looking for garbage among what they bring."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around the large imports of a process.

    torch, transformers and peft make 400,000 objects, which stay. The collector starts whenever so many are new, and
    goes through all of them again and again: a fifth of the time that they take to load. It waits until they are
    here, and leaves out of its work for good what there is by then. Where all was loaded before, nothing happens.
    """
    was_on, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        if was_on:
            gc.enable()
