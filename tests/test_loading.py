"""Imports with the collector off."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest

from fedmq.loading import loading


@pytest.fixture(autouse=True)
def thawed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests freeze is the suite's, which is frozen already (conftest.py)."""
    monkeypatch.setattr(gc, "freeze", lambda: FROZEN.append(True))
    FROZEN.clear()


FROZEN: list[bool] = []


def test_the_collector_waits_and_leaves_out_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    with loading():
        assert not gc.isenabled()
        monkeypatch.setitem(sys.modules, "brought_by_this_test", ModuleType("brought_by_this_test"))
    assert gc.isenabled() and FROZEN


def test_where_all_was_loaded_before_nothing_is_left_out() -> None:
    with loading():
        pass
    assert gc.isenabled() and not FROZEN


def test_it_stays_off_where_it_was_and_comes_back_after_an_error() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
