"""Fixtures for the whole suite."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Of this process and of those that it starts, before torch is loaded: threads that wait for each other take the cores
# from the processes beside them. Trainers are told how many they have, and keep to it.
os.environ["OMP_NUM_THREADS"] = "1"

NIGHTLY = os.environ.get("FEDMQ_NIGHTLY") == "1"

# The same examples on every machine and in every run, and no verdict by the clock. At night others, and many.
settings.register_profile("fedmq", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile("nightly" if NIGHTLY else "fedmq")

REPO = Path(__file__).resolve().parent.parent

#: a script, for a library that the tests do without
collect_ignore = ["fuzz/fuzz_decoders.py"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collecting loads every library there is, and all that comes with them stays: no garbage is looked for in it."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is skipped by day."""
    for item in items:
        if "nightly" in item.keywords and not NIGHTLY:
            item.add_marker(pytest.mark.skip(reason="takes long: ./launch/test.sh --nightly"))
        elif NIGHTLY and not any(item.iter_markers("timeout")):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def nightly() -> bool:
    """Whether there is time for many seeds."""
    return NIGHTLY


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that keeps what its pages ask for and what its console says."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if (chromium is None or driver is None) and os.environ.get("CI") != "true":
        pytest.skip("needs chromium and chromium-driver (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1600"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()
