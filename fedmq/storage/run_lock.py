"""One writer for a run's folder, and for a worker's."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from fedmq import atomic
from fedmq.errors import StorageError

#: in the folder
LOCK = ".lock"
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.02


def is_same(path: Path, file: os.stat_result) -> bool:
    """Whether this file is still what has that name."""
    try:
        return os.path.samestat(path.stat(), file)
    except (FileNotFoundError, NotADirectoryError):
        return False


class RunLock:
    """Held by the one process that may write into a run's folder; gone with that process, however it ends.

    Args:
      folder: made if it is not there.
      role: of those that may have it.
      option: by which another folder is given.

    Raises:
      StorageError: another process has it, or it cannot be made.
    """

    def __init__(self, folder: Path, role: str = "coordinator", option: str = "output_dir") -> None:
        for left in reversed(range(_LOCK_TRIES)):
            try:
                atomic.make_folder(folder)
                self._file = open(folder / LOCK, "a+")  # noqa: SIM115 - open for as long as the lock is held
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be made or written ({error.strerror}): give another {option}"
                ) from None
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have removed it in between: then it is nobody's.
                if self.is_there():
                    return
            except OSError:
                if left:
                    # It may be `held` in another process that asks: that one lets go at once.
                    time.sleep(_LOCK_PAUSE_S)
            self._file.close()
        raise StorageError(f"{folder} is in use by another {role}: wait for it or end it, or give another {option}")

    def is_there(self) -> bool:
        """Whether the folder still has this very file: somebody may have removed, moved or replaced it."""
        return not self._file.closed and is_same(Path(self._file.name), os.fstat(self._file.fileno()))

    @staticmethod
    def held(folder: Path) -> bool:
        """Whether some process has the lock now."""
        try:
            with open(folder / LOCK) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def release(self) -> None:
        """Let another process in."""
        self._file.close()

    def remove(self) -> None:
        """Release it and leave no file behind."""
        os.unlink(self._file.name)
        self.release()
