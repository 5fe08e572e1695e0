"""Build the site, every link and anchor checked, and look inside: nothing in it is loaded from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
#: what a browser fetches by itself; a link is only followed by whoever clicks
FETCHED = re.compile(
    r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+"
    r"|url\(\"?(?:https?:)?//[^)]+",
)

with tempfile.TemporaryDirectory() as folder:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    # The theme's advertisement of its successor is no warning of ours.
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: under it, --strict does not count warnings.
    done = subprocess.run(build, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    pages = sorted(Path(folder).rglob("*.html"))
    files = [*pages, *Path(folder).rglob("*.css")]
    fetched = [
        f"{file.relative_to(folder)}: {one}" for file in files for one in FETCHED.findall(file.read_text("utf-8"))
    ]

if fetched:
    sys.exit("\n".join(["the site loads from other hosts:", *fetched]))
print(f"site: {len(pages)} pages, nothing loaded from another host")
