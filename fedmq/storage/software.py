"""Which software a run was made with: recorded when it begins, and again when it goes on with another."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

#: What can move a result.
_PACKAGES = (
    "fedmq",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "accelerate",
    "numpy",
    "pandas",
    "pyzmq",
    "safetensors",
)
_CHECKOUT = Path(__file__).resolve().parents[2]


def software() -> dict[str, str]:
    """The version of each package that can move a result, of Python and of the system; `commit` where it is known.

    Nothing is imported for it. What is not installed is left out.
    """
    found = {"python": platform.python_version(), "system": platform.platform(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | ({"commit": commit} if (commit := _commit()) else {})


def recorded(known: str | None) -> str:
    """A run's list of the software that it was made with, as JSON, oldest first: what is here now is added to it.

    Args:
      known: the list so far; None at the beginning.

    Example:
      >>> recorded(recorded(None)) == recorded(None)
      True
    """
    entries: list[dict[str, str]] = json.loads(known or "[]")
    here = software()
    return json.dumps(entries if entries[-1:] == [here] else [*entries, here])


def _commit() -> str | None:
    """Of the checkout that this package runs from, "-dirty" where files differ; or of the one that pip installed."""
    if (_CHECKOUT / ".git").exists():
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                cwd=_CHECKOUT,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None
    try:
        origin = json.loads(distribution("fedmq").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    commit: str | None = origin.get("vcs_info", {}).get("commit_id")
    return commit
