"""What clients remember from one update to the next, as files: named tensors by client, round and update.

A state belongs to the update that was made with it. It is durable before that update is, and is gone on from only
when that update counted: one that did not leaves no trace, and a training that is done again gives the same bytes.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from fedmq import atomic
from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.messages import Folded
from fedmq.tensors import NamedTensors

log = logging.getLogger("fedmq.trainer")
FOLDER = "client_states"
_NAME = re.compile(r"round_(\d+)-([0-9a-f]{64})\.safetensors")


class ClientStates:
    """A folder of states, which several workers may share.

    Args:
      folder: made when the first state is kept.
      spare: whether the last state that was asked for before stays, too: a version may be scored, with what its
        clients have of their own, while the next ones are trained.
    """

    def __init__(self, folder: Path, spare: bool = False) -> None:
        self._folder, self._spare = folder, spare
        #: clients whose folders are known to survive a power cut: who made one may have been killed at once
        self._durable: set[str] = set()

    def keep(self, client: str, update: Folded, state: NamedTensors) -> None:
        """Make durable what a client remembers (float tensors) after this update, should it count."""
        path = self._path(client, update)
        if client not in self._durable:
            atomic.make_folder(path.parent)
            self._durable.add(client)
        atomic.write_bytes(path, raw.encode(state))

    def recall(self, client: str, follows: Folded | None) -> NamedTensors | None:
        """What a client remembers after its last update that counted; {} before the first.

        None when it is not here: it was trained elsewhere, or this disk has lost it. Older states are deleted.
        """
        if follows is None:
            return {}
        self._forget_before(client, follows)
        try:
            content = self._path(client, follows).read_bytes()
            return raw.decode(content, raw.read_spec(content))
        except FileNotFoundError:
            log.warning("what %s remembered after round %d is not here: it begins anew", client, follows.round)
        except RemoteProtocolError as error:
            log.warning("what %s remembered is damaged (%s): it begins anew", client, error)
        return None

    def _forget_before(self, client: str, follows: Folded) -> None:
        """Later ones stay: whoever asks may be late, and the next round under way."""
        kept = self._path(client, follows)
        rounds = {path: int(found[1]) for path in kept.parent.glob("round_*") if (found := _NAME.fullmatch(path.name))}
        spared = self._last_before(follows.round, rounds) if self._spare else None
        for path, round in rounds.items():
            if round <= follows.round and path not in (kept, spared):
                path.unlink(missing_ok=True)
                _mark(path).unlink(missing_ok=True)
        if self._spare and kept in rounds:
            _mark(kept).touch()

    def _last_before(self, round: int, rounds: dict[Path, int]) -> Path | None:
        """The newest that was asked for, so it counted; any number of others may have been made since."""
        earlier = [path for path in rounds if rounds[path] < round]
        return max([path for path in earlier if _mark(path).exists()] or earlier, key=rounds.__getitem__, default=None)

    def _path(self, client: str, update: Folded) -> Path:
        # Both names are checked by the codec of messages: no separators.
        return self._folder / client / f"round_{update.round}-{update.digest}.safetensors"


def _mark(path: Path) -> Path:
    """Beside a state that was asked for."""
    return path.with_suffix(".counted")


def forget_all(work_dir: Path) -> None:
    """The run is over: a worker's clients have nothing to go on from."""
    shutil.rmtree(work_dir / FOLDER, ignore_errors=True)


def of_worker(work_dir: Path, run: str) -> Path:
    """Where a worker with data of its own keeps states of this run; those of other runs are deleted."""
    folder = work_dir / FOLDER
    for other in folder.glob("*"):
        if other.name != run:
            shutil.rmtree(other)
    return folder / run
