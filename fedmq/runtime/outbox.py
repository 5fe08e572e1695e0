"""A worker's outbox on disk: finished updates with their offers, until the coordinator has committed them."""

from __future__ import annotations

import logging
from pathlib import Path

from fedmq import atomic
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec

log = logging.getLogger("fedmq.worker")


class Outbox:
    """A folder. An update is in it when both TASK.update and TASK.offer are there.

    Args:
      folder: made if it is missing; what a dead agent left half done in it is thrown away.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._codec = folder, Codec(m.TO_COORDINATOR)
        atomic.make_folder(folder)
        run = folder / "run"
        #: the run that the updates are of, if it is known, and their offers by task
        self.run = run.read_text() if run.is_file() else None
        self.offers = self._load()

    def begin(self, run: str) -> None:
        """What comes from now on is of this run."""
        atomic.write_bytes(self._folder / "run", run.encode())

    def made(self, task: str) -> Path:
        """Where the trainer puts what it makes of a task."""
        return self._file(task, "made")

    def update(self, task: str) -> Path:
        """Where an update is."""
        return self._file(task, "update")

    def add(self, offer: m.Offer) -> None:
        """Make an update durable before anybody hears of it; its file is so already, but for its name."""
        atomic.rename(self.made(offer.task), self.update(offer.task))
        atomic.write_bytes(self._file(offer.task, "offer"), self._codec.encode(offer))

    def remove(self, task: str) -> None:
        """Delete an update."""
        self._file(task, "offer").unlink(missing_ok=True)
        self.update(task).unlink(missing_ok=True)

    def _file(self, task: str, suffix: str) -> Path:
        # Task ids are checked by the codec to be words of letters, digits, dots and dashes.
        return self._folder / f"{task}.{suffix}"

    def _load(self) -> dict[str, m.Offer]:
        offers = {}
        for path in sorted(self._folder.glob("*.offer")):
            try:
                offer = self._codec.decode(path.read_bytes())
                if not self.update(offer.task).is_file():
                    raise RemoteProtocolError("MISSING", "its bytes are not there")
            except RemoteProtocolError as error:
                log.warning(
                    "%s is of another version of fedmq, or damaged (%s): the update is thrown away", path, error
                )
                path.unlink()
                continue
            offers[offer.task] = offer
        for path in self._folder.iterdir():
            if path.suffix == ".made" or (path.suffix == ".update" and path.stem not in offers):
                path.unlink()
        return offers
