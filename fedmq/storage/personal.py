"""personal/client_K/round_N: a client's own model, where clients share a part of their adapters only.

It is on the host that has the client's data, in PEFT's format, and nobody sends it. The newest of a client is kept.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

FOLDER = "personal"
_NAME = re.compile(r"round_(\d+)")


def folders(personal: Path) -> dict[str, Path]:
    """The newest own model of each client that has one, by client.

    Args:
      personal: the folder of that name.
    """
    found = {path.name: versions(path) for path in sorted(personal.glob("client_*"))}
    return {client: there[max(there)] for client, there in found.items() if there}


def where_own_models_are(run_dir: Path) -> str:
    """For people, at the end of a run."""
    personal = run_dir / FOLDER
    if folders(personal):
        return f"clients' own models are in {personal}: fedmq generate, evaluate and export take them by --client"
    return f"clients' own models are where their data are: in the folder {FOLDER} of their workers' --work-dir"


def versions(client: Path) -> dict[int, Path]:
    """A client's own models by the version of what is shared."""
    named = ((_NAME.fullmatch(path.name), path) for path in client.glob("round_*"))
    return {int(found[1]): path for found, path in named if found}


def forget_before(client: Path, version: int) -> None:
    """Remove the older ones: the newest is there."""
    for older, path in versions(client).items():
        if older < version:
            shutil.rmtree(path, ignore_errors=True)
