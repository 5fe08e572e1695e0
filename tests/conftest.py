"""Fixtures for the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every machine and in every run, and no verdict by the clock.
settings.register_profile("fedmq", deadline=None, derandomize=True)
settings.load_profile("fedmq")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tweets and GPT-2's vocabulary, which may not be shipped: tests that need them skip without."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data with the real tweets")
    return folder
