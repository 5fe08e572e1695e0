"""Rows of numbers that may be more than memory should hold: the first in memory, the rest in a file without a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np


class SpilledRows:
    """Rows of float64 values, all of one length (`fedmq.algorithms.rows.Rows`).

    The file has no name: it is gone when it is closed, or with the process.

    Args:
      folder: on a disk with room for them.
      max_nbytes: of the rows that stay in memory.

    Example:
      >>> rows = SpilledRows(Path(tempfile.gettempdir()), max_nbytes=16)
      >>> for k in range(3):
      ...     rows.append(np.full(2, float(k)))
      >>> rows.block(1, 2).tolist()
      [[0.0], [1.0], [2.0]]
      >>> rows.close()
    """

    def __init__(self, folder: Path, max_nbytes: int = 1 << 28) -> None:
        self._max_nbytes = max_nbytes
        self._rows: list[np.ndarray] = []
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close
        self._spilled = 0

    def append(self, row: np.ndarray) -> None:
        """Keep a copy of a row, float64 (P,)."""
        if not self._spilled and (len(self._rows) + 1) * row.nbytes <= self._max_nbytes:
            self._rows.append(row.copy())
            return
        self._file.write(np.ascontiguousarray(row).data.cast("B"))
        self._file.flush()
        self._spilled += 1

    def block(self, start: int, stop: int) -> np.ndarray:
        """The values from `start` to `stop` of every row: float64 (n, stop - start)."""
        found = np.empty((len(self._rows) + self._spilled, stop - start))
        for k, row in enumerate(self._rows):
            found[k] = row[start:stop]
        if self._spilled:
            row_nbytes = self._file.tell() // self._spilled
            for k in range(self._spilled):
                self._read(k * row_nbytes + 8 * start, found[len(self._rows) + k])
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self, offset: int, values: np.ndarray) -> None:
        view = values.data.cast("B")
        while view:
            done = os.preadv(self._file.fileno(), [view], offset)
            if not done:
                raise OSError("a file of this process has become shorter")
            view, offset = view[done:], offset + done
