"""Fixtures for the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tweets and GPT-2's vocabulary, which may not be shipped: tests that need them skip without."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data with the real tweets")
    return folder
