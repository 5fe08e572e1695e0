"""Build the wheel by way of the source distribution and look inside: everything carried, at most 8 MB."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MAX_NBYTES = 8_000_000
REPO = Path(__file__).resolve().parent.parent


def expected() -> set[str]:
    """Names in the wheel that the checkout's tracked files ask for."""
    tracked = subprocess.run(
        ["git", "ls-files", "fedmq", "configs", "launch/*.py"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.split()
    return {name if name.startswith("fedmq/") else f"fedmq/{name}" for name in tracked}


with tempfile.TemporaryDirectory() as folder:
    build = [sys.executable, "-m", "build", "--outdir", folder, str(REPO)]
    done = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    wheel = next(Path(folder).glob("*.whl"))
    missing = sorted(expected() - set(zipfile.ZipFile(wheel).namelist()))
    nbytes = wheel.stat().st_size

if missing or nbytes > MAX_NBYTES:
    sys.exit(f"{wheel.name}: {nbytes} bytes (at most {MAX_NBYTES}); missing from it: {missing}")
print(f"{wheel.name}: {nbytes} bytes, nothing missing")
