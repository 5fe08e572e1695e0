"""Fixtures for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every machine and in every run, and no verdict by the clock.
settings.register_profile("fedmq", deadline=None, derandomize=True)
settings.load_profile("fedmq")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, for this suite and for the processes it starts: the user's own stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tweets and GPT-2's vocabulary, which may not be shipped: tests that need them skip without."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data with the real tweets")
    return folder
