"""Rows of numbers that may be more than memory should hold: the first in memory, the rest in a file without a name."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from fedmq.atomic import disk_failures

#: Rows that stay in memory, in bytes.
MAX_NBYTES = 1 << 28


class SpilledRows:
    """Rows of float64 values, all of one length (`fedmq.algorithms.rows.Rows`).

    The file has no name: it is gone with this object, or with the process. It is read with `preadv`: pages of a mapped
    file would count as memory of this process.

    Args:
      folder: on a disk with room for them.
      max_nbytes: of the rows that stay in memory.

    Example:
      >>> rows = SpilledRows(Path("."), max_nbytes=16)
      >>> for k in range(3):
      ...     rows.append(np.full(2, float(k)))
      >>> rows.block(1, 2).tolist()
      [[0.0], [1.0], [2.0]]
      >>> rows.close()
    """

    def __init__(self, folder: Path, max_nbytes: int = MAX_NBYTES) -> None:
        self._folder, self._max_nbytes = folder, max_nbytes
        self._rows: list[np.ndarray] = []
        self._fd: int | None = None
        self._spilled = 0

    def append(self, row: np.ndarray) -> None:
        """Keep a copy of a row, float64 (P,).

        Raises:
          StorageError: the disk is full, or cannot be written.
        """
        if self._fd is None and (len(self._rows) + 1) * row.nbytes <= self._max_nbytes:
            self._rows.append(row.copy())
            return
        with disk_failures(self._folder):
            self._write(np.ascontiguousarray(row).data.cast("B"), self._spilled * row.nbytes)
        self._spilled += 1
        self._row_nbytes = row.nbytes

    def block(self, start: int, stop: int) -> np.ndarray:
        """The values from `start` to `stop` of every row: float64 (n, stop - start)."""
        held = len(self._rows)
        found = np.empty((held + self._spilled, stop - start))
        for k, row in enumerate(self._rows):
            found[k] = row[start:stop]
        with disk_failures(self._folder):
            for k in range(self._spilled):
                self._read(k * self._row_nbytes + 8 * start, found[held + k])
        return found

    def close(self) -> None:
        """Forget all of it."""
        self._rows, self._spilled = [], 0
        if self._fd is not None:
            self._closing()
            self._fd = None

    def _write(self, values: memoryview, offset: int) -> None:
        if self._fd is None:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                self._fd = os.dup(file.fileno())
            self._closing = weakref.finalize(self, os.close, self._fd)
        while values:
            done = os.pwrite(self._fd, values, offset)
            values, offset = values[done:], offset + done

    def _read(self, offset: int, values: np.ndarray) -> None:
        assert self._fd is not None
        view = values.data.cast("B")
        while view:
            done = os.preadv(self._fd, [view], offset)
            if not done:
                raise OSError("a file of this process has become shorter")
            view, offset = view[done:], offset + done
