"""Every file of configs/ is valid to the command that a user asks."""

from __future__ import annotations

import pytest
from running import REPO, fedmq

CONFIGS = sorted(path.name for path in (REPO / "configs").iterdir() if path.suffix in (".json", ".toml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid(name: str) -> None:
    done = fedmq("config", "validate", f"configs/{name}", cwd=REPO)
    assert (done.returncode, done.stderr) == (0, "")
