"""The coordinator's log, a file beside those of its workers."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from fedmq.errors import StorageError


class _LogFile(logging.FileHandler):
    """A file that ends no run: where its disk is full, that is said once, and what is logged is lost."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            lost = "the run goes on, and what it logs is lost"
            print(f"warning: {self.baseFilename} cannot be written ({error.strerror}): {lost}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def start(path: Path) -> logging.Handler:
    """Write what this package logs to a file, and nowhere else, until `stop`.

    Raises:
      StorageError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be made or written ({error.strerror}): give another log_dir") from None
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
