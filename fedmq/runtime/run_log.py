"""The coordinator's log, a file beside those of its workers."""

from __future__ import annotations

import logging
from pathlib import Path


def start(path: Path) -> logging.Handler:
    """Write what this package logs to a file, and nowhere else, until `stop`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("fedmq")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


def stop(handler: logging.Handler) -> None:
    """Close the file; what is logged goes again where it went before."""
    logger = logging.getLogger("fedmq")
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    handler.close()
